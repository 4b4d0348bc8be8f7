//! What belongs at a line and column of a file, both counted from 1.
//!
//! `cargo run --release -p hapa-examples --example complete_at_cursor -- app.py 12 5`
#![allow(clippy::print_stdout, reason = "a program for people")]

use std::error::Error;

use hapa_service::{ModelRef, Request, Service, ServiceOptions, Task};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [file, line, column] = arguments.as_slice() else {
        return Err("usage: complete_at_cursor FILE LINE COLUMN".into());
    };
    let text = std::fs::read_to_string(file)?;
    let cursor =
        offset(&text, line.parse()?, column.parse()?).ok_or("the file ends before that")?;
    let (prefix, suffix) = text.split_at(cursor);

    let model = match std::env::var("HAPA_MODEL") {
        Ok(name) => name.parse()?,
        Err(_) => ModelRef::default(),
    };
    let service = Service::new(ServiceOptions::new(model))?;
    let mut request = Request::complete(prefix, suffix);
    if let Task::Complete { file_path, .. } = &mut request.task {
        *file_path = Some(file.clone());
    }
    request.max_tokens = 64;
    let answer = service.predict(request).await?;
    println!("{}", answer.text);
    Ok(())
}

/// The byte at a line and column; a column is a character.
fn offset(text: &str, line: usize, column: usize) -> Option<usize> {
    let before: usize = text.split_inclusive('\n').take(line.checked_sub(1)?).map(str::len).sum();
    let rest = text.get(before..)?;
    let within = rest.split('\n').next()?;
    let mut places = within.char_indices().map(|(at, _)| at).chain([within.len()]);
    Some(before + places.nth(column.checked_sub(1)?)?)
}
