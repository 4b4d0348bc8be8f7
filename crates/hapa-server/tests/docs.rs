//! The examples of docs/api.md do what the page says.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on should stop")]

mod common;

use common::start;

/// The `curl` commands of the page: path, and body if there is one.
fn examples(page: &str) -> Vec<(String, Option<String>)> {
    let blocks = page.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    let commands = blocks.flat_map(|block| block.split("curl -s localhost:8000").skip(1));
    commands
        .map(|command| {
            let path = command.split_whitespace().next().unwrap().to_owned();
            let body = command.split_once("-d '").map(|(_, rest)| {
                rest.rsplit_once('\'').expect("the body ends with a quote").0.to_owned()
            });
            (path, body)
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_example_works() {
    let page = include_str!("../../../docs/api.md");
    let examples = examples(page);
    assert!(examples.len() >= 18, "{} examples", examples.len());
    let server = start().await;
    for (path, body) in examples {
        let reply = match &body {
            Some(body) => {
                let json = [("content-type", "application/json")];
                server.send("POST", &path, &json, body.as_bytes()).await
            }
            None => server.get(&path).await,
        };
        assert_eq!(reply.status, 200, "{path} {body:?}: {}", String::from_utf8_lossy(&reply.body));
    }
}
