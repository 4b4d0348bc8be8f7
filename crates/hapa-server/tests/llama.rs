//! llama-server's API as its editors' plug-ins and Continue use it, over real HTTP.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on should stop")]

mod common;

use common::{Reply, TestServer, start, start_model};
use hapa_model::testing::TinyModel;
use serde_json::{Value, json};

fn ok(reply: &Reply) -> Value {
    assert_eq!(reply.status, 200, "{}", String::from_utf8_lossy(&reply.body));
    reply.json()
}

fn events(reply: &Reply) -> Vec<Value> {
    let read = |event: &String| serde_json::from_str(event).unwrap();
    reply.events().iter().map(|event| read(&event.to_string())).collect()
}

/// The body with some fields changed or added.
fn with(body: &Value, changes: Value) -> Value {
    let mut body = body.clone();
    let Value::Object(changes) = changes else { panic!("no fields: {changes}") };
    for (field, value) in changes {
        body[field] = value;
    }
    body
}

/// What llama.vscode sends for a completion.
fn typed() -> Value {
    json!({
        "id_slot": 0, "input_prefix": "def add(a, b):\n", "input_suffix": "\n", "prompt": "    return ",
        "input_extra": [{ "filename": "a.py", "text": "x = 1\n" }], "n_predict": 6, "n_cmpl": 1, "n_indent": 4,
        "top_k": 40, "top_p": 0.99, "stream": false, "samplers": ["top_k", "top_p", "infill"], "cache_prompt": true,
        "t_max_prompt_ms": 500, "t_max_predict_ms": 60000,
    })
}

/// A request whose answer is long and of many lines, by chance that can be repeated.
fn rambling(seed: u64) -> Value {
    json!({ "input_prefix": "x = ", "n_predict": 1000, "temperature": 2.0, "seed": seed })
}

async fn large() -> TestServer {
    start_model(TinyModel::qwen2().context_length(2048)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_plug_ins_show() {
    let server = start().await;
    // Whether a line is indented less depends on what the random model writes.
    let request = with(&typed(), json!({ "n_indent": 0 }));
    let mut body = ok(&server.post("/infill", &request).await);
    for (count, rates) in [
        ("prompt_n", ["prompt_ms", "prompt_per_token_ms", "prompt_per_second"]),
        ("predicted_n", ["predicted_ms", "predicted_per_token_ms", "predicted_per_second"]),
    ] {
        assert!(body["timings"][count].as_u64().unwrap() > 0, "{body}");
        for field in rates {
            assert!(body["timings"][field].as_f64().unwrap() > 0.0, "{field} of {body}");
            body["timings"][field] = json!("<measured>");
        }
    }
    body["content"] = json!("<written>");
    body["has_new_line"] = json!("<as it is written>");
    insta::assert_snapshot!(serde_json::to_string_pretty(&body).unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_fields_that_are_wanted() {
    let server = start().await;
    let wanted = json!([
        "content",
        "timings/prompt_n",
        "generation_settings/n_predict",
        "timings/nothing",
        ""
    ]);
    let body =
        ok(&server.post("/infill", &with(&typed(), json!({ "response_fields": wanted }))).await);
    let names: Vec<&String> = body.as_object().unwrap().keys().collect();
    assert_eq!(names, ["content", "timings/prompt_n", "generation_settings/n_predict"]);
    assert_eq!(body["generation_settings/n_predict"], 6);
    let streaming = with(&typed(), json!({ "response_fields": ["stop"], "stream": true }));
    let events = events(&server.post("/infill", &streaming).await);
    assert_eq!(events.last().unwrap(), &json!({ "stop": true }));
}

/// The text up to the first line that begins with fewer blanks, and whether there is one.
fn cut(text: &str, least: usize) -> (&str, bool) {
    let mut end = text.find('\n').unwrap_or(text.len());
    for (at, _) in text.match_indices('\n') {
        let line = &text[at + 1..text[at + 1..].find('\n').map_or(text.len(), |end| at + 1 + end)];
        let begins = line.trim_start_matches([' ', '\t', '\r']);
        if begins.is_empty() {
            continue;
        }
        let indent = line[..line.len() - begins.len()].matches([' ', '\t']).count();
        if indent < least {
            return (&text[..end], true);
        }
        end = at + 1 + line.len();
    }
    (text, false)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_smaller_indent_ends_it() {
    let server = large().await;
    let mut ended = 0;
    for seed in 1..=3 {
        let free = ok(&server.post("/infill", &rambling(seed)).await);
        let free = free["content"].as_str().unwrap();
        let request = with(&rambling(seed), json!({ "n_indent": 2 }));
        let reply = server.post("/infill", &request).await;
        let body = ok(&reply);
        let (expected, is_cut) = cut(free, 2);
        assert_eq!(body["content"], expected, "of {free:?}");
        if !is_cut {
            continue;
        }
        ended += 1;
        assert!(body["tokens_predicted"].as_u64().unwrap() < 1000, "{body}");
        let again = server.post("/infill", &request).await;
        assert_eq!(
            (again.header("x-hapa-cache"), &ok(&again)["content"]),
            (Some("hit-l1"), &json!(expected))
        );
        let streamed =
            events(&server.post("/infill", &with(&request, json!({ "stream": true }))).await);
        let text: String =
            streamed.iter().map(|event| event["content"].as_str().unwrap()).collect();
        assert_eq!(text, expected);
    }
    assert!(ended > 0, "no text had a line to be cut");
}

#[tokio::test(flavor = "multi_thread")]
async fn time_ends_it_with_a_line_and_it_is_not_kept() {
    let server = large().await;
    let free = ok(&server.post("/infill", &rambling(1)).await);
    let free = free["content"].as_str().unwrap();
    let hurried = with(&rambling(1), json!({ "t_max_predict_ms": 1 }));
    for _ in 0..2 {
        let reply = server.post("/infill", &hurried).await;
        assert_eq!(reply.header("x-hapa-cache"), Some("miss"));
        let body = ok(&reply);
        let rest = free.strip_prefix(body["content"].as_str().unwrap()).unwrap();
        assert!(rest.starts_with('\n'), "{body} of {free:?}");
        assert_eq!((&body["stop_type"], &body["truncated"]), (&json!("limit"), &json!(false)));
        assert!(body["tokens_predicted"].as_u64().unwrap() < 1000, "{body}");
    }
    let patient = with(&rambling(1), json!({ "t_max_predict_ms": 600_000 }));
    assert_eq!(ok(&server.post("/infill", &patient).await)["content"], free);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_read_before_is_not_read_again() {
    let extra = json!([
        { "filename": "a.py", "text": "def first(values):\n    return values[0]\n".repeat(4) },
        { "filename": "b.py", "text": "def last(values):\n    return values[-1]\n".repeat(4) },
    ]);
    let typed = with(&typed(), json!({ "input_extra": extra }));
    let cold = large().await;
    assert_eq!(ok(&cold.post("/infill", &typed).await)["tokens_cached"], 0);

    let server = large().await;
    // llama.vim's, which asks for no field.
    let warming = json!({
        "id_slot": 0, "input_prefix": "", "input_suffix": "", "input_extra": extra, "prompt": "", "n_predict": 0,
        "temperature": 0.0, "samplers": [], "stream": false, "cache_prompt": true, "t_max_prompt_ms": 1,
        "t_max_predict_ms": 1, "response_fields": [""],
    });
    assert_eq!(ok(&server.post("/infill", &warming).await), json!({}));
    let read =
        ok(&server.post("/infill", &with(&warming, json!({ "response_fields": null }))).await);
    assert_eq!((&read["content"], &read["tokens_predicted"]), (&json!(""), &json!(0)));
    assert_eq!(
        (&read["stop_type"], &read["generation_settings"]["n_predict"]),
        (&json!("limit"), &json!(0))
    );
    let streamed =
        events(&server.post("/infill", &with(&warming, json!({ "stream": true }))).await);
    assert_eq!(streamed, [json!({})]);

    let answer = ok(&server.post("/infill", &typed).await);
    assert_eq!(answer["tokens_predicted"], 6);
    // All but the last two tokens of the short prompt, in whole pages.
    let page = server.service.stats().engine.unwrap().kv.page_tokens as u64;
    let alike = read["tokens_evaluated"].as_u64().unwrap() - 2;
    let cached = answer["tokens_cached"].as_u64().unwrap();
    assert!(cached > 0 && cached + page > alike, "{cached} of {alike} in pages of {page}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instruction_that_is_still_written() {
    let server = start().await;
    let code = "def first(values):\n    return values[0]\n".repeat(4);
    // llama.vim's, while the user writes what is to be done.
    let mut request = json!({
        "id_slot": 0, "samplers": [], "n_predict": 0, "stream": false, "cache_prompt": true, "response_fields": [""],
        "messages": [{ "role": "system", "content": code }, { "role": "user", "content": "" }],
    });
    let body = ok(&server.post("/v1/chat/completions", &request).await);
    assert_eq!(
        (&body["choices"][0]["message"]["content"], &body["usage"]["completion_tokens"]),
        (&json!(""), &json!(0))
    );
    request["n_predict"] = json!(4);
    request["messages"][1]["content"] = json!("INSTRUCTION: rename it");
    let usage = ok(&server.post("/v1/chat/completions", &request).await)["usage"].clone();
    assert_eq!(usage["completion_tokens"], 4);
    assert!(usage["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap() > 0, "{usage}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_file_is_no_error() {
    let server = start().await;
    let empty =
        with(&typed(), json!({ "input_prefix": "", "prompt": "", "input_extra": [], "n_cmpl": 3 }));
    assert_eq!(ok(&server.post("/infill", &empty).await)["content"], "");
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_name_what_was_sent() {
    let server = start().await;
    let text = json!({ "prompt": "x" });
    for (path, body, field) in [
        ("/infill", with(&typed(), json!({ "n_predict": "many" })), "n_predict"),
        ("/infill", with(&typed(), json!({ "input_prefix": "x".repeat(50_001) })), "input_prefix"),
        ("/infill", with(&typed(), json!({ "input_suffix": "x".repeat(50_001) })), "input_suffix"),
        ("/infill", with(&typed(), json!({ "repeat_penalty": 0.0 })), "repeat_penalty"),
        ("/infill", with(&typed(), json!({ "n_cmpl": 6 })), "n_cmpl"),
        ("/infill", with(&typed(), json!({ "input_extra": "x" })), "input_extra"),
        ("/completion", json!({}), "prompt"),
        ("/completion", json!({ "prompt": "" }), "prompt"),
        ("/completion", with(&text, json!({ "grammar": "root ::= x" })), "grammar"),
        (
            "/completions",
            with(&text, json!({ "json_schema": { "type": "nothing" } })),
            "json_schema",
        ),
        ("/completion", with(&text, json!({ "n_predict": 1.5, "stream": true })), "n_predict"),
    ] {
        let reply = server.post(path, &body).await;
        let error = &reply.json()["error"];
        assert_eq!((reply.status, &error["param"]), (400, &json!(field)), "{path}: {error}");
        assert!(
            error["message"].as_str().unwrap().contains(field) || field == "json_schema",
            "{error}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn several_completions() {
    let server = start().await;
    let request = with(&typed(), json!({ "n_cmpl": 3, "n_indent": 0 }));
    let answers = ok(&server.post("/infill", &request).await);
    let answers = answers.as_array().unwrap();
    assert!((1..=3).contains(&answers.len()), "{answers:?}");
    for (index, answer) in answers.iter().enumerate() {
        assert_eq!((&answer["index"], &answer["stop"]), (&json!(index), &json!(true)));
    }
    let events = events(&server.post("/infill", &with(&request, json!({ "stream": true }))).await);
    let mut ended: Vec<u64> = events
        .iter()
        .filter(|event| event["stop"] == true)
        .map(|event| event["index"].as_u64().unwrap())
        .collect();
    ended.sort_unstable();
    assert_eq!(ended, [0, 1, 2]);
}

/// What Continue does with a stream.
fn read(reply: &Reply) -> String {
    events(reply).iter().filter_map(|event| event["content"].as_str().map(str::to_owned)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn texts_go_on() {
    let server = start().await;
    let request = json!({
        "prompt": "def f(x):", "stream": true, "n_predict": 24, "frequency_penalty": 0, "presence_penalty": 0,
        "min_p": 0, "top_k": 40, "top_p": 1, "repeat_penalty": 1.0, "temperature": 0, "cache_prompt": true,
    });
    let text = read(&server.post("/completion", &request).await);
    let whole = with(&request, json!({ "stream": false }));
    for path in ["/completion", "/completions"] {
        let body = ok(&server.post(path, &whole).await);
        assert_eq!((&body["content"], &body["tokens_predicted"]), (&json!(text), &json!(24)));
        assert_eq!((&body["stop_type"], &body["stopping_word"]), (&json!("limit"), &json!("")));
        assert_eq!(body["generation_settings"]["top_k"], 40);
    }
    let openai = json!({ "prompt": "def f(x):", "max_tokens": 24, "top_k": 40 });
    assert_eq!(ok(&server.post("/v1/completions", &openai).await)["choices"][0]["text"], text);

    let tokenize = json!({ "content": "def f(x):" });
    let ids = ok(&server.post("/tokenize", &tokenize).await)["tokens"].clone();
    let mixed = json!([ids[0], ": def f(x):"]);
    let several = with(&whole, json!({ "prompt": [ids, "def f(x):", mixed] }));
    let bodies = ok(&server.post("/completion", &several).await);
    let indices: Vec<_> = bodies.as_array().unwrap().iter().map(|body| &body["index"]).collect();
    assert_eq!(indices, [0, 1, 2]);
    assert_eq!((&bodies[0]["content"], &bodies[1]["content"]), (&json!(text), &json!(text)));
    assert_ne!(bodies[2]["content"], text);
    let streamed =
        events(&server.post("/completion", &with(&several, json!({ "stream": true }))).await);
    let of = |index: usize| -> String {
        let mine =
            streamed.iter().filter(|event| event["index"] == index && event["stop"] == false);
        mine.map(|event| event["content"].as_str().unwrap()).collect()
    };
    assert_eq!((of(0), of(1)), (text.clone(), text.clone()));
    assert_eq!(of(2), bodies[2]["content"].as_str().unwrap());
    let both = with(&openai, json!({ "prompt": [several["prompt"][0], several["prompt"][2]] }));
    let choices = ok(&server.post("/v1/completions", &both).await)["choices"].clone();
    assert_eq!((&choices[0]["text"], &choices[1]["text"]), (&json!(text), &bodies[2]["content"]));
    let unknown = with(&openai, json!({ "prompt": [1_000_000] }));
    let reply = server.post("/v1/completions", &unknown).await;
    assert_eq!((reply.status, &reply.json()["error"]["param"]), (400, &json!("prompt")));

    let characters: Vec<char> = text.chars().collect();
    let stop: String = characters[characters.len() / 2..].iter().take(3).collect();
    let stopping = with(&whole, json!({ "stop": ["never", stop] }));
    for cache in ["miss", "hit-l1"] {
        let reply = server.post("/completion", &stopping).await;
        assert_eq!(reply.header("x-hapa-cache"), Some(cache));
        let body = ok(&reply);
        assert_eq!(body["content"], text[..text.find(&stop).unwrap()]);
        assert_eq!((&body["stop_type"], &body["stopping_word"]), (&json!("word"), &json!(stop)));
    }
    let end =
        events(&server.post("/completion", &with(&stopping, json!({ "stream": true }))).await);
    assert_eq!(end.last().unwrap()["stopping_word"], json!(stop));

    let warming = with(&whole, json!({ "n_predict": 0 }));
    assert_eq!(ok(&server.post("/completion", &warming).await)["content"], "");
    let form = json!({ "prompt": "x", "n_predict": 40, "json_schema": { "enum": ["a", "b"] } });
    let body = ok(&server.post("/completion", &form).await);
    assert!(["\"a\"", "\"b\""].contains(&body["content"].as_str().unwrap().trim()), "{body}");
}

#[tokio::test(flavor = "multi_thread")]
async fn pieces_of_a_text() {
    let server = start().await;
    let text = "def ü<|im_end|>";
    let tokens = async |changes: Value| {
        let body = with(&json!({ "content": text }), changes);
        ok(&server.post("/tokenize", &body).await)["tokens"].as_array().unwrap().clone()
    };
    let plain = tokens(json!({})).await;
    let pieces = tokens(json!({ "with_pieces": true, "add_special": null })).await;
    let ids: Vec<Value> = pieces.iter().map(|token| token["id"].clone()).collect();
    assert_eq!(ids, plain);
    let bytes: Vec<u8> = pieces
        .iter()
        .flat_map(|token| match &token["piece"] {
            Value::String(text) => text.clone().into_bytes(),
            bytes => serde_json::from_value(bytes.clone()).unwrap(),
        })
        .collect();
    assert_eq!(String::from_utf8(bytes).unwrap(), text);
    assert_eq!(pieces.last().unwrap()["piece"], "<|im_end|>");
    assert!(pieces.iter().any(|token| token["piece"] == json!([0xC3])), "{pieces:?}");
    let as_text = tokens(json!({ "parse_special": false })).await;
    assert!(as_text.len() > plain.len() && !as_text.contains(plain.last().unwrap()));

    let many = json!({ "tokens": vec![1; 200_001] });
    let reply = server.post("/detokenize", &many).await;
    assert_eq!((reply.status, &reply.json()["error"]["param"]), (400, &json!("tokens")));
}
