//! The cache alone, with a file below memory: the second run of this program finds what the first one computed.
//!
//! ```console
//! $ cargo run -p hapa-cache --features tokio --example tiers
//! $ cargo run -p hapa-cache --features tokio --example tiers
//! ```

use hapa_cache::{
    CacheError, DiskOptions, EntryOptions, Level, MemoryOptions, RequestKey, TieredCache,
    TieredOptions,
};
use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::temp_dir().join("hapa-cache-example/answers.redb");
    let disk = DiskOptions::new(&path).max_bytes(64 << 20).build()?;
    let memory = MemoryOptions::new().max_entries(10_000).max_bytes(16 << 20);
    let cache: TieredCache<Arc<str>> = TieredOptions::new(memory).tier(disk).build()?;

    let mut out = std::io::stdout().lock();
    for question in ["add two numbers", "reverse a list", "add two numbers"] {
        let began = Instant::now();
        let (from, answer) = ask(&cache, question).await?;
        let took = began.elapsed();
        writeln!(
            out,
            "{question:18} {from:12} {took:>10.1?}  {}",
            answer.lines().next().unwrap_or("")
        )?;
    }
    // What was inserted is written behind; a program that ends should wait for that.
    cache.flush().await;

    let stats = cache.stats();
    writeln!(
        out,
        "\nsaved {:?}; on disk: {:?} answers in {}",
        stats.saved(),
        stats.tiers[0].entries,
        path.display()
    )?;
    Ok(())
}

async fn ask(
    cache: &TieredCache<Arc<str>>,
    question: &str,
) -> Result<(&'static str, Arc<str>), CacheError> {
    // Everything that changes the answer is in the key, or does not compile.
    let request = RequestKey {
        model_digest: "sha256:ab12",
        template: "example/1",
        prompt: question,
        max_tokens: 256,
        ..RequestKey::default()
    };
    let key = request.digest()?.key;
    if let Some(found) = cache.get(&key).await {
        let from = if found.level == Level::Memory { "from memory" } else { "from disk" };
        return Ok((from, found.value));
    }
    let began = Instant::now();
    let answer = compute(question).await;
    let entry = EntryOptions { cost: began.elapsed(), ttl: None };
    cache.insert(key, Arc::clone(&answer), entry);
    Ok(("computed", answer))
}

/// Stands for what is dear to compute.
async fn compute(question: &str) -> Arc<str> {
    tokio::time::sleep(Duration::from_millis(300)).await;
    format!("# {question}\ndef answer(): ...\n").into()
}
