//! HAPA's HTTP API as a part of one's own program: it serves until Ctrl-C, while the program does what it is for, and tells
//! at the end what was asked.
//!
//! `cargo run --release -p hapa-examples --example serve_inside -- 127.0.0.1:8000`
#![allow(clippy::print_stdout, reason = "a program for people")]

use std::error::Error;

use hapa_server::{Server, ServerOptions};
use hapa_service::{ModelRef, Service, ServiceOptions};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let model = match std::env::var("HAPA_MODEL") {
        Ok(name) => name.parse()?,
        Err(_) => ModelRef::default(),
    };
    let service = Service::new(ServiceOptions::new(model))?;
    let mut options = ServerOptions::default();
    if let Some(address) = std::env::args().nth(1) {
        options.address = address.parse()?;
    }
    // The server gets a handle; this program keeps another, to the same cache and the same model.
    let server = Server::new(options, service.clone())?.bind().await?;
    println!("http://{}", server.local_addr());

    let stop = async {
        let _ = tokio::signal::ctrl_c().await;
    };
    let serving = tokio::spawn(server.serve(stop));

    // Here is room for the program's own work, which may ask `service` itself, without HTTP.

    serving.await?;
    let stats = service.stats();
    println!(
        "{:?}; up for {:.1?}, model {}",
        stats.requests,
        stats.uptime,
        stats.model_state.name()
    );
    Ok(())
}
