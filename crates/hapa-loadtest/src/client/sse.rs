//! Server-sent events out of pieces that may break anywhere.

/// Longest event that is taken; a body that goes on without an end of line is no event stream.
const MAX_EVENT_BYTES: usize = 16 << 20;

/// An incremental reader of `text/event-stream`.
#[derive(Debug, Default)]
pub(crate) struct Events {
    /// A line that has no end yet.
    line: Vec<u8>,
    /// The data of an event that has no end yet.
    data: Vec<u8>,
    has_data: bool,
}

/// An event grew beyond all measure.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TooLong;

impl Events {
    pub(crate) fn clear(&mut self) {
        self.line.clear();
        self.data.clear();
        self.has_data = false;
    }

    /// Takes more bytes, and hands on the data of each event that they complete.
    pub(crate) fn feed(
        &mut self,
        mut bytes: &[u8],
        mut event: impl FnMut(&[u8]),
    ) -> Result<(), TooLong> {
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            let (line, rest) = (&bytes[..end], &bytes[end + 1..]);
            if self.line.is_empty() {
                take(&mut self.data, &mut self.has_data, line, &mut event);
            } else {
                self.line.extend_from_slice(line);
                take(&mut self.data, &mut self.has_data, &self.line, &mut event);
                self.line.clear();
            }
            bytes = rest;
        }
        self.line.extend_from_slice(bytes);
        if self.line.len() + self.data.len() > MAX_EVENT_BYTES {
            return Err(TooLong);
        }
        Ok(())
    }

    /// Whether an event has begun and not ended.
    pub(crate) fn is_half(&self) -> bool {
        !self.line.is_empty() || self.has_data
    }
}

fn take(data: &mut Vec<u8>, has_data: &mut bool, line: &[u8], event: &mut impl FnMut(&[u8])) {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if line.is_empty() {
        if std::mem::take(has_data) {
            event(data);
            data.clear();
        }
    } else if let Some(text) = line.strip_prefix(b"data:") {
        if *has_data {
            data.push(b'\n');
        }
        data.extend_from_slice(text.strip_prefix(b" ").unwrap_or(text));
        *has_data = true;
    }
    // `event:`, `id:`, `retry:` and comments say nothing that is measured.
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &[u8] =
        b": hello\n\ndata: a\n\nevent: x\r\ndata:b\r\ndata: c\r\nid: 1\r\n\r\n\n\ndata:\n\ndata: half\n";

    fn in_pieces(size: usize) -> (Vec<String>, bool) {
        let mut events = Events::default();
        let mut seen = Vec::new();
        for piece in STREAM.chunks(size) {
            events
                .feed(piece, |data| seen.push(String::from_utf8(data.to_vec()).unwrap()))
                .unwrap();
        }
        (seen, events.is_half())
    }

    #[test]
    fn it_does_not_matter_where_pieces_break() {
        for size in 1..=STREAM.len() {
            assert_eq!(in_pieces(size), (vec!["a".into(), "b\nc".into(), String::new()], true));
        }
    }

    #[test]
    fn a_line_without_end_is_refused() {
        let mut events = Events::default();
        let piece = vec![b'x'; MAX_EVENT_BYTES / 2 + 1];
        assert_eq!(events.feed(&piece, |_| {}), Ok(()));
        assert_eq!(events.feed(&piece, |_| {}), Err(TooLong));
        events.clear();
        assert!(!events.is_half());
    }
}
