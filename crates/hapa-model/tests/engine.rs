//! The engine over a real model on the cpu backend: company, drafts and shared prompts change no token.
#![expect(clippy::expect_used, reason = "a test helper that fails fails its test")]

use hapa_model::testing::{PERPLEXITY_TEXT, real_model};
use hapa_model::{
    Answer, BackendChoice, ChatMessage, GenerateRequest, Generation, LoadOptions, Model,
    NoProgress, Role, SamplingOptions,
};

fn load(speculation: bool) -> Model {
    let resolved = real_model("smollm2-135m").expect("the model is here or can be fetched");
    let options =
        LoadOptions { backend: BackendChoice::Cpu, speculation, ..LoadOptions::default() };
    Model::load(&resolved, &options, &NoProgress).expect("loads")
}

fn python(bytes: usize) -> &'static str {
    &PERPLEXITY_TEXT[..PERPLEXITY_TEXT.floor_char_boundary(bytes)]
}

/// Prompts of several lengths; the last ones ask for a text that the prompt has.
fn prompts(model: &Model) -> Vec<Vec<u32>> {
    let encode = |text: &str| model.encode(text).expect("encodes");
    let chat = |text: String| {
        model.chat_prompt(&[ChatMessage::new(Role::User, text)]).expect("has a template")
    };
    let code = python(700);
    vec![
        encode("d"),
        encode("def fib(n):"),
        encode(python(300)),
        encode(python(1_500)),
        chat("Write a function that reverses a string.".to_owned()),
        chat("Say hello.".to_owned()),
        chat(format!("Repeat this code, and nothing else:\n```python\n{code}```")),
        encode(&format!("{code}\n\n# The same once more:\n{}", python(200))),
    ]
}

fn collect(generation: Generation) -> Answer {
    generation.blocking_collect().expect("answers")
}

fn alone(model: &Model, request: &GenerateRequest) -> Answer {
    collect(model.generate(request.clone()).expect("room"))
}

fn together(model: &Model, requests: &[GenerateRequest]) -> Vec<Answer> {
    let generations: Vec<Generation> =
        requests.iter().map(|request| model.generate(request.clone()).expect("room")).collect();
    generations.into_iter().map(collect).collect()
}

#[test]
fn alone_in_company_and_with_drafts_a_request_gets_the_same_tokens() {
    let plain = load(false);
    let drafting = load(true);
    let requests: Vec<GenerateRequest> = prompts(&plain)
        .into_iter()
        .enumerate()
        .map(|(i, prompt)| GenerateRequest {
            sampling: SamplingOptions {
                temperature: if i % 4 == 3 { 0.7 } else { 0.0 },
                repetition_penalty: if i == 5 { 1.1 } else { 1.0 },
                seed: Some(i as u64),
                ..SamplingOptions::default()
            },
            logprobs: (i == 6).then_some(2),
            ..GenerateRequest::new(prompt, 64)
        })
        .collect();
    let expected: Vec<Answer> = requests.iter().map(|request| alone(&plain, request)).collect();
    let same = |answers: &[Answer], how: &str| {
        for (i, (answer, expected)) in answers.iter().zip(&expected).enumerate() {
            assert_eq!(answer.output, expected.output, "request {i} {how}");
            assert_eq!(answer.finish.reason, expected.finish.reason, "request {i} {how}");
        }
    };
    same(&together(&plain, &requests), "in company");
    let drafted: Vec<Answer> = requests.iter().map(|request| alone(&drafting, request)).collect();
    same(&drafted, "with drafts");
    // Now also from the old answers.
    same(&together(&drafting, &requests), "with drafts, in company, again");
    let [plain, drafting] = [plain.engine_stats(), drafting.engine_stats()];
    assert_eq!(plain.drafted_tokens, 0);
    assert!(drafting.accepted_tokens > 0 && drafting.steps < plain.steps, "{drafting:?}");
}

#[test]
fn eight_requests_with_one_system_prompt_compute_it_once() {
    let model = load(true);
    let system = python(2_400);
    let prompt = |question: String| {
        let messages =
            [ChatMessage::new(Role::System, system), ChatMessage::new(Role::User, question)];
        model.chat_prompt(&messages).expect("has a template")
    };
    let requests: Vec<GenerateRequest> = (0..8)
        .map(|i| GenerateRequest::new(prompt(format!("{i} What is function {i} for?")), 8))
        .collect();
    let shared = requests[0].prompt.iter().zip(&requests[1].prompt).take_while(|(a, b)| a == b);
    let shared = shared.count() / 32 * 32;
    assert!(shared > 500, "{shared} tokens");
    let answers = together(&model, &requests);
    let cached: Vec<usize> = answers.iter().map(|a| a.finish.usage.cached_tokens).collect();
    assert_eq!(cached[0], 0);
    assert!(cached[1..].iter().all(|&cached| cached >= shared), "{cached:?} of {shared}");
    assert_eq!(model.engine_stats().cached_tokens, cached.iter().sum::<usize>() as u64);
    // Each alone, in a namespace that knows nothing yet.
    for (i, (request, answer)) in (1..).zip(requests.iter().zip(answers)) {
        let again = GenerateRequest { namespace: i, ..request.clone() };
        assert_eq!(alone(&model, &again).output, answer.output);
        if i == 3 {
            break;
        }
    }
}
