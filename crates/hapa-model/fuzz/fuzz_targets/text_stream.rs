//! Any bytes in any pieces: the text is that of the whole, cut before the first stop string.
#![no_main]

use hapa_model::TextStream;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (Vec<String>, Vec<Vec<u8>>)| {
    let (stops, pieces) = input;
    let Ok(mut stream) = TextStream::new(stops.clone()) else {
        return;
    };
    let mut text = String::new();
    let mut stopped = false;
    for piece in &pieces {
        let step = stream.push(piece);
        text.push_str(&step.text);
        stopped |= step.stopped;
    }
    text.push_str(&stream.finish());
    let whole = String::from_utf8_lossy(&pieces.concat()).into_owned();
    assert!(whole.starts_with(&text));
    if !stopped {
        // A replacement character at the very end may complete a stop string in `finish`.
        assert!(text == whole || stops.iter().any(|stop| whole.ends_with(stop.as_str())));
    }
    assert!(stops.iter().all(|stop| !text.contains(stop.as_str())));
});
