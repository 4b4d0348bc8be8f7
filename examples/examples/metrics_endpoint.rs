//! Metrics of one's own service on a Prometheus page, without any web framework.
//!
//! `cargo run -p hapa-examples --example metrics_endpoint -- 127.0.0.1:9464`, then `curl http://127.0.0.1:9464/metrics`.
#![allow(clippy::print_stdout, reason = "a program for people")]

use std::error::Error;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use hapa_metrics::labels::{Endpoint, Method, Status};
use hapa_metrics::{Exporter, Format, names};

fn main() -> Result<(), Box<dyn Error>> {
    // From here on everything that is emitted through the `metrics` facade, by any library, is collected.
    let exporter = Exporter::install()?;
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:0".to_owned());
    let listener = TcpListener::bind(address)?;
    println!("http://{}/metrics", listener.local_addr()?);
    for stream in listener.incoming() {
        let start = Instant::now();
        // A client that breaks off is its own loss.
        if let Err(error) = stream.and_then(|stream| answer(stream, &exporter)) {
            eprintln!("{error}");
        }
        // Labels are types: an endpoint is a known route or `other`, never whatever a client sent.
        let labels = (Method::Get, Endpoint::of("/metrics"), Status(200));
        names::API_REQUESTS_TOTAL.with(labels).increment(1);
        let labels = (Method::Get, Endpoint::of("/metrics"));
        names::API_REQUEST_DURATION_SECONDS.with(labels).record(start.elapsed());
    }
    Ok(())
}

fn answer(mut stream: TcpStream, exporter: &Exporter) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut accept = None;
    for line in BufReader::new((&stream).take(16 << 10)).lines() {
        let line = line?;
        if line.is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("accept")
        {
            accept = Some(value.trim().to_owned());
        }
    }
    let format = Format::negotiate(accept.as_deref());
    let body = exporter.render_as(format);
    write!(
        stream,
        "HTTP/1.1 200 OK\r\ncontent-type: {}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        format.content_type(),
        body.len(),
    )
}
