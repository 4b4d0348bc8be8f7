//! The place of every part of a request in its cache key.

use std::borrow::Cow;

use hapa_cache::{
    CacheControl, CacheError, CacheKey, Digest, KeyDigest, RequestKey, SamplingKey, StreamShape,
};
use hapa_model::{Role, SamplingOptions};

use crate::error::ServiceError;
use crate::prompt::TEMPLATE;
use crate::request::{OutputFormat, PromptPiece, Request, Task};

/// The key of a request to a model, named by [`hapa_model::ModelInfo::answer_identity`].
/// `window` is that of [`Limits::completion_window`](crate::Limits).
pub(crate) fn digest(
    request: &Request,
    model: &str,
    window: usize,
) -> Result<KeyDigest, ServiceError> {
    with_key(request, (model, window), |key| key.digest())
}

/// What requests for completions share while only the text before the cursor changes.
pub(crate) fn group(request: &Request, model: &str, window: usize) -> Result<Digest, ServiceError> {
    with_key(request, (model, window), |key| key.group())
}

/// `Request` and its parts are taken apart without `..`: a new field does not compile before its place in the key
/// is decided.
fn with_key<T>(
    request: &Request,
    (model, window): (&str, usize),
    digest: impl FnOnce(&RequestKey<'_>) -> Result<T, CacheError>,
) -> Result<T, ServiceError> {
    let Request {
        task,
        sampling,
        max_tokens,
        stop,
        min_indent,
        writing_time,
        prompt_only,
        format,
        cache,
        logprobs,
        // Names for logs, and for who supersedes whom.
        request_id: _,
        document_id: _,
        trace_kernels: _,
        // An answer that came in time is as good for whoever can wait longer.
        deadline: _,
    } = request;
    let CacheControl {
        namespace,
        // What may be done with an answer does not change it.
        no_cache: _,
        no_store: _,
        ttl: _,
    } = cache;
    let mut template = Cow::Borrowed(TEMPLATE);
    if *min_indent > 0 {
        template.to_mut().push_str(&format!(" indent {min_indent}"));
    }
    // What is whole by then is the same without a limit; but requests that come meanwhile share also what is not.
    if let Some(time) = writing_time {
        template.to_mut().push_str(&format!(" within {time:?}"));
    }
    match format {
        OutputFormat::Text => {}
        OutputFormat::JsonObject => template.to_mut().push_str(" json"),
        OutputFormat::JsonSchema(schema) => template.to_mut().push_str(&format!(" json {schema}")),
        // Their schemas are with the task's tools.
        OutputFormat::ToolCall(callable) => {
            template.to_mut().push_str(&format!(" call {callable:?}"));
        }
    }
    let base = RequestKey {
        namespace,
        model_digest: model,
        template: &template,
        sampling: sampling_key(sampling),
        max_tokens: if *prompt_only { 0 } else { *max_tokens as u64 },
        stop,
        shape: StreamShape { logprobs: logprobs.map(|count| count as u64) },
        ..RequestKey::default()
    };
    let found = match task {
        Task::Generate { question, context, language, file_path } => digest(&RequestKey {
            task: "generate",
            prompt: question,
            context: context.as_deref(),
            language,
            file_path: file_path.as_deref(),
            ..base
        }),
        Task::Complete { prefix, suffix, language, file_path, extra } => {
            let parts: Vec<(&str, &str)> =
                extra.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
            digest(&RequestKey {
                task: "complete",
                prompt: prefix,
                context: Some(suffix),
                language,
                file_path: file_path.as_deref(),
                parts: &parts,
                template: &format!("{template} window {window}"),
                ..base
            })
        }
        Task::Chat { messages, tools } => {
            // The last message is the prompt, what was said before is its context.
            // Calls are a part of their message, tools come before all.
            let called: Vec<String> =
                messages.iter().map(|message| format!("{:?}", message.tool_calls)).collect();
            let offered = format!("{tools:?}");
            let mut parts: Vec<(&str, &str)> = Vec::with_capacity(messages.len() + 1);
            if !tools.is_empty() {
                parts.push(("tools", &offered));
            }
            for (message, called) in messages.iter().zip(&called) {
                if !message.tool_calls.is_empty() {
                    parts.push(("tool_calls", called));
                }
                parts.push((role(message.role), message.content.as_str()));
            }
            let (last, earlier) = last_of(&parts);
            digest(&RequestKey {
                task: "chat",
                prompt: last.1,
                language: last.0,
                parts: earlier,
                ..base
            })
        }
        Task::Raw { prompt } => {
            let pieces: Vec<(&str, Cow<'_, str>)> = prompt.iter().map(piece).collect();
            let pieces: Vec<(&str, &str)> =
                pieces.iter().map(|(kind, text)| (*kind, &**text)).collect();
            let (last, earlier) = last_of(&pieces);
            digest(&RequestKey {
                task: "raw",
                prompt: last.1,
                language: last.0,
                parts: earlier,
                ..base
            })
        }
    };
    found.map_err(|error| ServiceError::invalid("sampling", error.to_string()))
}

/// The last of the parts of a prompt, and those before it.
fn last_of<'a, 'b>(
    parts: &'b [(&'a str, &'a str)],
) -> ((&'a str, &'a str), &'b [(&'a str, &'a str)]) {
    parts.split_last().map_or((("", ""), parts), |(last, earlier)| (*last, earlier))
}

fn piece(piece: &PromptPiece) -> (&'static str, Cow<'_, str>) {
    match piece {
        PromptPiece::Text(text) => ("text", Cow::Borrowed(text)),
        PromptPiece::Tokens(tokens) => ("tokens", Cow::Owned(format!("{tokens:?}"))),
    }
}

fn role(role: Role) -> &'static str {
    match role {
        Role::System => "system",
        Role::User => "user",
        Role::Assistant => "assistant",
        Role::Tool => "tool",
    }
}

fn sampling_key(sampling: &SamplingOptions) -> SamplingKey {
    let SamplingOptions {
        temperature,
        top_k,
        top_p,
        min_p,
        repetition_penalty,
        repetition_window,
        seed,
    } = *sampling;
    SamplingKey {
        temperature,
        top_k: top_k as u64,
        top_p,
        min_p,
        repetition_penalty,
        repetition_window: repetition_window as u64,
        seed,
    }
}

/// A key that no other request has: for generations that must not be shared.
pub(crate) fn unshared(number: u64) -> CacheKey {
    Digest::of(format!("hapa unshared generation {number}").as_bytes())
}

/// The engine's name for a namespace: prompts of different ones share no KV pages.
pub(crate) fn engine_namespace(namespace: &str) -> u64 {
    if namespace.is_empty() {
        return 0;
    }
    let digest = Digest::of(namespace.as_bytes());
    let mut first = [0u8; 8];
    first.copy_from_slice(&digest.as_bytes()[..8]);
    u64::from_le_bytes(first)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hapa_model::ChatMessage;

    fn key(request: &Request) -> CacheKey {
        digest(request, "sha256:1", 2048).unwrap().key
    }

    fn say(role: Role, content: &str) -> ChatMessage {
        ChatMessage::new(role, content)
    }

    fn text(text: &str) -> PromptPiece {
        PromptPiece::Text(text.to_owned())
    }

    fn tokens(tokens: &[u32]) -> PromptPiece {
        PromptPiece::Tokens(tokens.to_vec())
    }

    #[test]
    fn everything_that_changes_the_answer_changes_the_key() {
        let base = Request::generate("sort a list");
        let changes: Vec<fn(&mut Request)> = vec![
            |r| r.task = Request::generate("sort a list ").task,
            |r| r.task = Request::raw("sort a list").task,
            |r| r.task = Request::pieces(vec![text("sort a"), text(" list")]).task,
            |r| r.task = Request::pieces(vec![text("sort a"), tokens(&[1, 2])]).task,
            |r| r.task = Request::pieces(vec![tokens(&[1, 2]), text("sort a")]).task,
            |r| r.task = Request::pieces(vec![tokens(&[1, 2])]).task,
            |r| r.task = Request::pieces(vec![tokens(&[12])]).task,
            |r| r.task = Request::raw("[1, 2]").task,
            |r| r.task = Request::complete("sort a list", "").task,
            |r| r.task = Request::chat(vec![say(Role::User, "sort a list")]).task,
            |r| {
                if let Task::Generate { context, .. } = &mut r.task {
                    *context = Some("x = 1".to_owned());
                }
            },
            |r| {
                if let Task::Generate { context, .. } = &mut r.task {
                    *context = Some(String::new());
                }
            },
            |r| {
                if let Task::Generate { language, .. } = &mut r.task {
                    *language = "rust".to_owned();
                }
            },
            |r| {
                if let Task::Generate { file_path, .. } = &mut r.task {
                    *file_path = Some("a.py".to_owned());
                }
            },
            |r| r.sampling.temperature = 0.5,
            |r| {
                r.sampling.temperature = 0.5;
                r.sampling.seed = Some(1);
            },
            |r| {
                r.sampling.temperature = 0.5;
                r.sampling.seed = Some(2);
            },
            |r| {
                r.sampling.temperature = 0.5;
                r.sampling.top_p = 0.5;
            },
            |r| {
                r.sampling.temperature = 0.5;
                r.sampling.top_k = 3;
            },
            |r| r.sampling.repetition_penalty = 1.2,
            |r| r.max_tokens += 1,
            |r| r.min_indent = 4,
            |r| r.min_indent = 8,
            |r| r.writing_time = Some(std::time::Duration::from_millis(250)),
            |r| r.writing_time = Some(std::time::Duration::from_secs(1)),
            |r| r.prompt_only = true,
            |r| r.logprobs = Some(0),
            |r| r.format = OutputFormat::JsonObject,
            |r| r.format = OutputFormat::JsonSchema("{}".to_owned()),
            |r| r.format = OutputFormat::ToolCall(vec!["f".to_owned()]),
            |r| r.stop = vec!["\n".to_owned()],
            |r| r.stop = vec!["\n".to_owned(), "x".to_owned()],
            |r| r.cache.namespace = "tenant".to_owned(),
        ];
        let mut keys = vec![key(&base)];
        for change in changes {
            let mut request = base.clone();
            change(&mut request);
            keys.push(key(&request));
        }
        keys.push(digest(&base, "sha256:2", 2048).unwrap().key);
        let distinct: std::collections::HashSet<_> = keys.iter().collect();
        assert_eq!(distinct.len(), keys.len());
    }

    #[test]
    fn what_does_not_change_the_answer_does_not_change_the_key() {
        let base = Request::generate("sort a list");
        let mut other = base.clone();
        other.request_id = Some("7".to_owned());
        other.deadline = Some(std::time::Instant::now());
        other.cache.no_cache = true;
        other.cache.ttl = Some(std::time::Duration::from_secs(1));
        other.sampling.seed = Some(3); // greedy: the seed has no effect
        assert_eq!(key(&base), key(&other));
    }

    #[test]
    fn a_conversation_is_its_messages_in_order() {
        let a = Request::chat(vec![say(Role::System, "s"), say(Role::User, "u")]);
        let b = Request::chat(vec![say(Role::User, "s"), say(Role::System, "u")]);
        let c = Request::chat(vec![say(Role::User, "u"), say(Role::System, "s")]);
        let d = Request::chat(vec![say(Role::System, "su")]);
        let keys: std::collections::HashSet<_> = [a, b, c, d].iter().map(key).collect();
        assert_eq!(keys.len(), 4);
    }

    #[test]
    fn hashes_show_prompt_and_context() {
        let mut request = Request::generate("q");
        if let Task::Generate { context, .. } = &mut request.task {
            *context = Some("c".to_owned());
        }
        let found = digest(&request, "m", 2048).unwrap();
        assert_eq!(found.prompt_hash, Digest::of(b"q"));
        assert_eq!(found.context_hash, Some(Digest::of(b"c")));
    }

    #[test]
    fn namespaces_differ_in_the_engine_too() {
        assert_eq!(engine_namespace(""), 0);
        assert_ne!(engine_namespace("a"), engine_namespace("b"));
    }
}
