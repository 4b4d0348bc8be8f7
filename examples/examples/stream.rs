//! An answer on standard output as it is written. Ctrl-C stops it: dropping the stream cancels the generation.
//!
//! `cargo run --release -p hapa-examples --example stream -- "a class for a bank account"`
#![allow(clippy::print_stdout, reason = "a program for people")]

use std::error::Error;
use std::io::Write;

use hapa_service::{AnswerEvent, ModelRef, Request, Service, ServiceOptions};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let question =
        if words.is_empty() { "a class for a bank account".to_owned() } else { words.join(" ") };
    let model = match std::env::var("HAPA_MODEL") {
        Ok(name) => name.parse()?,
        Err(_) => ModelRef::default(),
    };
    let service = Service::new(ServiceOptions::new(model))?;
    let mut request = Request::generate(question);
    request.max_tokens = 256;

    let mut stream = service.predict_stream(request).await?;
    loop {
        let event = tokio::select! {
            event = stream.next() => event,
            _ = tokio::signal::ctrl_c() => {
                drop(stream);
                eprintln!("\nstopped");
                return Ok(());
            }
        };
        match event {
            Some(Ok(AnswerEvent::Text(piece))) => {
                print!("{piece}");
                std::io::stdout().flush()?;
            }
            Some(Ok(AnswerEvent::Logprobs(_))) => {}
            Some(Ok(AnswerEvent::Finished(answer))) => {
                println!();
                eprintln!(
                    "{} tokens in {:.1?}",
                    answer.usage.generated_tokens, answer.timings.total
                );
            }
            Some(Err(error)) => return Err(error.into()),
            None => return Ok(()),
        }
    }
}
