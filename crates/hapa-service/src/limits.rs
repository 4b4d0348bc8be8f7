//! The limits that every request is held to.

use hapa_model::{ChatMessage, SamplingOptions};

use crate::error::ServiceError;
use crate::request::{MAX_LOGPROBS, PromptPiece, Request, Task, call_bytes, tool_bytes};

/// The limits of every request, in one place. Lengths are in characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Longest question.
    pub question_chars: usize,
    /// Longest code context of a question.
    pub context_chars: usize,
    /// Longest text before the cursor.
    pub prefix_chars: usize,
    /// Longest text after the cursor.
    pub suffix_chars: usize,
    /// Longest sum of the other files of a completion.
    pub extra_chars: usize,
    /// Most other files of a completion.
    pub extra_files: usize,
    /// Longest conversation or raw prompt, in which a token counts as a character.
    pub prompt_chars: usize,
    /// Most messages of a conversation.
    pub messages: usize,
    /// Most tools of a conversation.
    pub tools: usize,
    /// Longest file path, language or namespace.
    pub name_chars: usize,
    /// Most stop strings.
    pub stop_strings: usize,
    /// Longest stop string.
    pub stop_chars: usize,
    /// Most tokens of an answer; whoever asks for more may get as many as these.
    pub max_tokens: usize,
    /// Longest code for validation.
    pub code_chars: usize,
    /// Most tokens of the edited file that a completion reads around the cursor, a sixteenth of them after it. What is farther away
    /// is left out, not refused; other files come on top.
    pub completion_window: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            question_chars: 10_000,
            context_chars: 50_000,
            prefix_chars: 50_000,
            suffix_chars: 50_000,
            extra_chars: 200_000,
            extra_files: 64,
            prompt_chars: 200_000,
            messages: 512,
            tools: 128,
            name_chars: 1_024,
            stop_strings: 16,
            stop_chars: 256,
            max_tokens: 32_768,
            code_chars: 200_000,
            completion_window: 2_048,
        }
    }
}

impl Limits {
    /// Holds a request against the limits.
    ///
    /// # Errors
    /// [`ServiceError::Invalid`] that names the first field that breaks one. Fields carry the names of
    /// HAPA's own API (`user_question`, `code_context`, `prefix`, ...), or of OpenAI's for the rest.
    pub fn check(&self, request: &Request) -> Result<(), ServiceError> {
        self.check_task(request)?;
        check_sampling(&request.sampling)?;
        if request.max_tokens == 0 {
            return Err(ServiceError::invalid("max_tokens", "is 0; at least 1 is needed"));
        }
        if request.stop.len() > self.stop_strings {
            return Err(ServiceError::invalid(
                "stop",
                format!(
                    "has {} strings; at most {} are allowed",
                    request.stop.len(),
                    self.stop_strings
                ),
            ));
        }
        for stop in &request.stop {
            text("stop", stop, Span { min: 1, max: self.stop_chars })?;
        }
        if let Some(count) = request.logprobs.filter(|&count| count > MAX_LOGPROBS) {
            return Err(out_of_range("top_logprobs", count, 0, MAX_LOGPROBS));
        }
        let name = Span { min: 0, max: self.name_chars };
        text("document_id", request.document_id.as_deref().unwrap_or_default(), name)?;
        text("namespace", &request.cache.namespace, name)
    }

    fn check_task(&self, request: &Request) -> Result<(), ServiceError> {
        let name = Span { min: 0, max: self.name_chars };
        match &request.task {
            Task::Generate { question, context, language, file_path } => {
                not_blank("user_question", question)?;
                text("user_question", question, Span { min: 1, max: self.question_chars })?;
                text(
                    "code_context",
                    context.as_deref().unwrap_or_default(),
                    Span { min: 0, max: self.context_chars },
                )?;
                text("language", language, Span { min: 1, max: 64 })?;
                text("file_path", file_path.as_deref().unwrap_or_default(), name)
            }
            Task::Complete { prefix, suffix, language, file_path, extra } => {
                // At the top of a file nothing stands before the cursor: then the suffix is the question, or other files are.
                let has_more = !suffix.trim().is_empty() || !extra.is_empty();
                let least = usize::from(!has_more && !request.prompt_only);
                text("prefix", prefix, Span { min: least, max: self.prefix_chars })?;
                text("suffix", suffix, Span { min: 0, max: self.suffix_chars })?;
                text("language", language, Span { min: 0, max: 64 })?;
                text("file_path", file_path.as_deref().unwrap_or_default(), name)?;
                if extra.len() > self.extra_files {
                    return Err(ServiceError::invalid(
                        "input_extra",
                        format!(
                            "has {} files; at most {} are allowed",
                            extra.len(),
                            self.extra_files
                        ),
                    ));
                }
                for (path, _) in extra {
                    text("input_extra", path, name)?;
                }
                let total: usize = extra.iter().map(|(_, body)| body.chars().count()).sum();
                total_chars("input_extra", total, self.extra_chars)
            }
            Task::Chat { messages, tools } => {
                if messages.is_empty() {
                    return Err(ServiceError::invalid(
                        "messages",
                        "is empty; at least one message is needed",
                    ));
                }
                if messages.len() > self.messages {
                    return Err(ServiceError::invalid(
                        "messages",
                        format!(
                            "has {} messages; at most {} are allowed",
                            messages.len(),
                            self.messages
                        ),
                    ));
                }
                let says = |message: &ChatMessage| {
                    !message.content.trim().is_empty() || !message.tool_calls.is_empty()
                };
                if !messages.iter().any(says) {
                    return Err(ServiceError::invalid("messages", "holds no text"));
                }
                if tools.len() > self.tools {
                    let problem =
                        format!("has {} tools; at most {} are allowed", tools.len(), self.tools);
                    return Err(ServiceError::invalid("tools", problem));
                }
                for tool in tools {
                    text("tools", &tool.name, Span { min: 1, max: self.name_chars })?;
                }
                total_chars("tools", tools.iter().map(tool_bytes).sum(), self.prompt_chars)?;
                let total = messages.iter().map(|message| {
                    let calls: usize = message.tool_calls.iter().map(call_bytes).sum();
                    message.content.chars().count() + calls
                });
                total_chars("messages", total.sum(), self.prompt_chars)
            }
            Task::Raw { prompt } => {
                let total = prompt.iter().map(|piece| match piece {
                    PromptPiece::Text(text) => text.chars().count(),
                    PromptPiece::Tokens(tokens) => tokens.len(),
                });
                chars_within("prompt", total.sum(), Span { min: 1, max: self.prompt_chars })
            }
        }
    }
}

#[derive(Clone, Copy)]
struct Span {
    min: usize,
    max: usize,
}

fn text(field: &str, value: &str, span: Span) -> Result<(), ServiceError> {
    // A string has at least a quarter as many characters as bytes: no need to count what is far too long.
    let chars = if value.len() / 4 > span.max { value.len() / 4 } else { value.chars().count() };
    chars_within(field, chars, span)
}

fn chars_within(field: &str, chars: usize, span: Span) -> Result<(), ServiceError> {
    if chars < span.min {
        return Err(ServiceError::invalid(
            field,
            format!("is empty; {} to {} characters are allowed", span.min, span.max),
        ));
    }
    total_chars(field, chars, span.max)
}

fn not_blank(field: &str, value: &str) -> Result<(), ServiceError> {
    if value.trim().is_empty() {
        return Err(ServiceError::invalid(field, "is empty or blank"));
    }
    Ok(())
}

fn total_chars(field: &str, chars: usize, max: usize) -> Result<(), ServiceError> {
    if chars > max {
        return Err(ServiceError::invalid(
            field,
            format!("has at least {chars} characters; at most {max} are allowed"),
        ));
    }
    Ok(())
}

fn out_of_range(
    field: &str,
    value: impl std::fmt::Display,
    min: impl std::fmt::Display,
    max: impl std::fmt::Display,
) -> ServiceError {
    ServiceError::invalid(field, format!("is {value}; {min} to {max} is allowed"))
}

fn check_sampling(sampling: &SamplingOptions) -> Result<(), ServiceError> {
    // `contains` is false for NaN, so NaN is refused too.
    let ranges = [
        ("temperature", sampling.temperature, 0.0..=2.0),
        ("top_p", sampling.top_p, 0.0..=1.0),
        ("min_p", sampling.min_p, 0.0..=1.0),
        ("repetition_penalty", sampling.repetition_penalty, 0.1..=10.0),
    ];
    for (field, value, range) in ranges {
        if !range.contains(&value) {
            return Err(out_of_range(field, value, range.start(), range.end()));
        }
    }
    if sampling.top_p == 0.0 {
        return Err(ServiceError::invalid(
            "top_p",
            "is 0; a value above 0 and at most 1 is allowed",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use hapa_model::Role;

    fn field_of(request: &Request) -> Option<String> {
        match Limits::default().check(request) {
            Ok(()) => None,
            Err(ServiceError::Invalid { field, .. }) => Some(field),
            Err(other) => panic!("expected Invalid, got {other:?}"),
        }
    }

    #[test]
    fn each_limit_names_its_field() {
        assert_eq!(field_of(&Request::generate("sort a list")), None);
        assert_eq!(field_of(&Request::generate("")).as_deref(), Some("user_question"));
        assert_eq!(field_of(&Request::generate(" \n\t")).as_deref(), Some("user_question"));
        assert_eq!(field_of(&Request::generate("x".repeat(10_000))), None);
        assert_eq!(
            field_of(&Request::generate("x".repeat(10_001))).as_deref(),
            Some("user_question")
        );
        // Characters are counted, not bytes.
        assert_eq!(field_of(&Request::generate("정".repeat(10_000))), None);
        assert_eq!(
            field_of(&Request::generate("정".repeat(10_001))).as_deref(),
            Some("user_question")
        );
        assert_eq!(field_of(&Request::complete("", "")).as_deref(), Some("prefix"));
        assert_eq!(field_of(&Request::complete("", "\nreturn x\n")), None);
        let mut warming = Request::complete("", "");
        warming.prompt_only = true;
        assert_eq!(field_of(&warming), None);
        let mut beside_others = Request::complete("", "");
        if let Task::Complete { extra, .. } = &mut beside_others.task {
            extra.push(("a.py".to_owned(), "x = 1".to_owned()));
        }
        assert_eq!(field_of(&beside_others), None);
        assert_eq!(
            field_of(&Request::complete("x", "y".repeat(50_001))).as_deref(),
            Some("suffix")
        );
        assert_eq!(field_of(&Request::chat(vec![])).as_deref(), Some("messages"));
        let blank = ChatMessage::new(Role::User, "  ");
        assert_eq!(field_of(&Request::chat(vec![blank])).as_deref(), Some("messages"));
        assert_eq!(field_of(&Request::raw("")).as_deref(), Some("prompt"));
        let tokens = |count| Request::pieces(vec![PromptPiece::Tokens(vec![1; count])]);
        assert_eq!(field_of(&tokens(0)).as_deref(), Some("prompt"));
        assert_eq!(field_of(&tokens(200_000)), None);
        assert_eq!(field_of(&tokens(200_001)).as_deref(), Some("prompt"));
    }

    #[test]
    fn context_and_options_are_limited() {
        let mut request = Request::generate("x");
        if let Task::Generate { context, .. } = &mut request.task {
            *context = Some("y".repeat(50_001));
        }
        assert_eq!(field_of(&request).as_deref(), Some("code_context"));
        for (field, change) in [
            ("temperature", (|s| s.temperature = f32::NAN) as fn(&mut SamplingOptions)),
            ("temperature", |s| s.temperature = -0.1),
            ("temperature", |s| s.temperature = 2.1),
            ("top_p", |s| s.top_p = 0.0),
            ("top_p", |s| s.top_p = 1.5),
            ("min_p", |s| s.min_p = -1.0),
            ("repetition_penalty", |s| s.repetition_penalty = 0.0),
        ] {
            let mut request = Request::generate("x");
            change(&mut request.sampling);
            assert_eq!(field_of(&request).as_deref(), Some(field));
        }
        let mut request = Request::generate("x");
        request.max_tokens = 0;
        assert_eq!(field_of(&request).as_deref(), Some("max_tokens"));
        let mut request = Request::generate("x");
        request.stop = vec![String::new()];
        assert_eq!(field_of(&request).as_deref(), Some("stop"));
        request.stop = vec!["a".to_owned(); 17];
        assert_eq!(field_of(&request).as_deref(), Some("stop"));
    }
}
