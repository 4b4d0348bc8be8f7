//! What clients of llama-server send to be written.
//!
//! A field that is null is absent. Fields of its other samplers and of its slots are accepted and ignored.

use std::time::Duration;

use hapa_service::{
    DEFAULT_COMPLETION_TOKENS, DEFAULT_MAX_TOKENS, MAX_CANDIDATES, OutputFormat, Request,
    SamplingOptions, Task,
};
use serde::Deserialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::problem::Problem;
use crate::wire::absent::nullable;
use crate::wire::openai::{MAX_CHOICES, StopStrings};
use crate::wire::prompt::Prompt;

/// Declares a body with the fields that all of llama-server's completions have. They stand in the struct itself, and not in a
/// flattened one, so that an error can say which of them is wrong.
macro_rules! completion_body {
    ($(#[$doc:meta])* pub struct $name:ident { $($(#[$field_doc:meta])* pub $field:ident: $type:ty,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Deserialize, ToSchema)]
        pub struct $name {
            $($(#[$field_doc])* pub $field: $type,)*
            /// Which model; without it the default one.
            #[serde(default)]
            pub model: Option<String>,
            /// Most tokens; -1 is the server's default. With 0 only the prompt is read, so that requests that begin like it are
            /// answered sooner.
            #[serde(default)]
            pub n_predict: Option<i64>,
            /// 0 (the default) is greedy.
            #[serde(default)]
            #[schema(maximum = 2)]
            pub temperature: Option<f32>,
            /// Only the most probable tokens that together have this probability.
            #[serde(default)]
            #[schema(exclusive_minimum = 0, maximum = 1)]
            pub top_p: Option<f32>,
            /// Only the k most probable tokens; 0 or less is all.
            #[serde(default)]
            pub top_k: Option<i64>,
            /// Only tokens at least this probable, relative to the most probable.
            #[serde(default)]
            #[schema(minimum = 0, maximum = 1)]
            pub min_p: Option<f32>,
            /// Divides the logits of tokens that were seen; 1 is none.
            #[serde(default)]
            #[schema(minimum = 0.1, maximum = 10)]
            pub repeat_penalty: Option<f32>,
            /// How many tokens back the penalty looks; -1 is all of them.
            #[serde(default)]
            pub repeat_last_n: Option<i64>,
            /// Makes a sampled answer repeatable; -1 is none.
            #[serde(default)]
            pub seed: Option<i64>,
            /// The completion ends before any of these.
            #[serde(default)]
            pub stop: StopStrings,
            /// The completion ends before the first line that begins with fewer blanks; the first line and empty ones don't
            /// count.
            #[serde(default)]
            pub n_indent: Option<i64>,
            /// The completion ends with the first line that is whole when so many milliseconds have passed since its first token;
            /// 0 is no limit.
            #[serde(default)]
            pub t_max_predict_ms: Option<i64>,
            /// How many completions are wanted. With more than one the answer is an array; there are fewer when the model does not
            /// vary.
            #[serde(default)]
            #[schema(minimum = 1, maximum = 5)]
            pub n_cmpl: Option<usize>,
            /// The form that the completion must have: JSON that fits this schema.
            #[serde(default)]
            #[schema(value_type = Option<Object>)]
            pub json_schema: Option<Value>,
            /// Must be absent or empty.
            #[serde(default)]
            #[schema(max_length = 0)]
            pub grammar: Option<String>,
            /// Which fields the answer shall have; one within another is written `timings/prompt_ms`, and comes under that name.
            #[serde(default)]
            pub response_fields: Option<Vec<String>>,
            /// Whether events are sent as the completion is written.
            #[serde(default)]
            pub stream: Option<bool>,
        }

        impl $name {
            fn options(&mut self) -> Options {
                Options {
                    n_predict: self.n_predict,
                    temperature: self.temperature,
                    top_p: self.top_p,
                    top_k: self.top_k,
                    min_p: self.min_p,
                    repeat_penalty: self.repeat_penalty,
                    repeat_last_n: self.repeat_last_n,
                    seed: self.seed,
                    stop: std::mem::take(&mut self.stop).into(),
                    n_indent: self.n_indent,
                    t_max_predict_ms: self.t_max_predict_ms,
                    n_cmpl: self.n_cmpl,
                    json_schema: self.json_schema.take(),
                    grammar: self.grammar.take(),
                    response_fields: self.response_fields.take(),
                    stream: self.stream,
                }
            }
        }
    };
}

/// The common fields of the bodies.
#[derive(Default)]
pub(super) struct Options {
    n_predict: Option<i64>,
    temperature: Option<f32>,
    top_p: Option<f32>,
    top_k: Option<i64>,
    min_p: Option<f32>,
    repeat_penalty: Option<f32>,
    repeat_last_n: Option<i64>,
    seed: Option<i64>,
    stop: Vec<String>,
    n_indent: Option<i64>,
    t_max_predict_ms: Option<i64>,
    n_cmpl: Option<usize>,
    json_schema: Option<Value>,
    grammar: Option<String>,
    response_fields: Option<Vec<String>>,
    stream: Option<bool>,
}

/// What a body asks for.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    /// What it asks for in the service's terms, one a prompt.
    pub(crate) requests: Vec<Request>,
    /// Completions of each that are wanted; several only of one.
    pub(crate) count: usize,
    /// The fields that are wanted; none means all.
    pub(crate) fields: Vec<String>,
    /// Whether events are.
    pub(crate) streams: bool,
}

impl Options {
    /// `tokens` is what a completion may have where nothing is said.
    pub(super) fn ask(self, tasks: Vec<Request>, tokens: usize) -> Result<Asked, Problem> {
        if self.grammar.as_ref().is_some_and(|grammar| !grammar.is_empty()) {
            let problem = "is not supported; leave it out, or send a `json_schema`";
            return Err(Problem::invalid("grammar", problem));
        }
        let count = self.n_cmpl.unwrap_or(1);
        if !(1..=MAX_CANDIDATES).contains(&count) {
            let problem = format!("is {count}; 1 to {MAX_CANDIDATES} are allowed");
            return Err(Problem::invalid("n_cmpl", problem));
        }
        if tasks.len() > MAX_CHOICES {
            let problem =
                format!("has more than {MAX_CHOICES} prompts; 1 to {MAX_CHOICES} are allowed");
            return Err(Problem::invalid("prompt", problem));
        }
        if count > 1 && tasks.len() > 1 {
            let prompts = tasks.len();
            let problem = format!("is {count}, which one prompt may have; there are {prompts}");
            return Err(Problem::invalid("n_cmpl", problem));
        }
        let requests: Vec<_> =
            tasks.into_iter().map(|request| self.applied(request, tokens)).collect();
        let is_read = requests.iter().all(|request| request.prompt_only);
        Ok(Asked {
            count: if is_read { 1 } else { count },
            requests,
            fields: self.response_fields.unwrap_or_default(),
            streams: self.stream == Some(true),
        })
    }

    fn applied(&self, mut request: Request, tokens: usize) -> Request {
        let given = self.n_predict.map(usize::try_from);
        request.prompt_only |= given == Some(Ok(0));
        request.max_tokens =
            given.and_then(Result::ok).filter(|_| !request.prompt_only).unwrap_or(tokens);
        let defaults = SamplingOptions::default();
        request.sampling = SamplingOptions {
            temperature: self.temperature.map_or(defaults.temperature, |heat| heat.max(0.0)),
            top_p: self.top_p.unwrap_or(defaults.top_p),
            top_k: self.top_k.map_or(defaults.top_k, |k| usize::try_from(k).unwrap_or(0)),
            min_p: self.min_p.unwrap_or(defaults.min_p),
            repetition_penalty: self.repeat_penalty.unwrap_or(defaults.repetition_penalty),
            repetition_window: self
                .repeat_last_n
                .map_or(defaults.repetition_window, |n| usize::try_from(n).unwrap_or(usize::MAX)),
            seed: self.seed.and_then(|seed| u64::try_from(seed).ok()),
        };
        request.stop = self.stop.iter().filter(|stop| !stop.is_empty()).cloned().collect();
        request.min_indent = self.n_indent.and_then(|n| usize::try_from(n).ok()).unwrap_or(0);
        let time = self.t_max_predict_ms.and_then(|ms| u64::try_from(ms).ok());
        request.writing_time = time.filter(|&ms| ms > 0).map(Duration::from_millis);
        if let Some(schema) = &self.json_schema {
            request.format = OutputFormat::JsonSchema(schema.to_string());
        }
        request
    }
}

completion_body! {
    /// Body of `POST /infill`.
    pub struct InfillBody {
        /// The text before the cursor.
        #[serde(default)]
        #[schema(max_length = 50000)]
        pub input_prefix: Option<String>,
        /// The text after the cursor.
        #[serde(default)]
        #[schema(max_length = 50000)]
        pub input_suffix: Option<String>,
        /// Other files that may help.
        #[serde(default)]
        #[schema(max_items = 64)]
        pub input_extra: Option<Vec<ExtraFile>>,
        /// The beginning of the line of the cursor; follows the prefix.
        #[serde(default)]
        pub prompt: Option<String>,
        /// Language of the text. HAPA's own: a completion of `python` ends with the block that the cursor is in; without it
        /// only the model, `stop`, `n_indent` and `t_max_predict_ms` end it, as in llama-server.
        #[serde(default)]
        #[schema(max_length = 64)]
        pub language: Option<String>,
    }
}

completion_body! {
    /// Body of `POST /completion`.
    pub struct TextBody {
        /// What is continued as it stands. To several prompts the answer is an array.
        pub prompt: Prompt,
    }
}

/// A file that may help a completion.
#[derive(Debug, Clone, Deserialize, ToSchema)]
pub struct ExtraFile {
    /// Its path.
    #[serde(default, deserialize_with = "nullable")]
    pub filename: String,
    /// Its text.
    #[serde(default, deserialize_with = "nullable")]
    pub text: String,
}

impl InfillBody {
    /// What it asks for. Where nothing at all stands around the cursor there is nothing to be said: the completion is empty.
    pub(crate) fn into_asked(mut self) -> Result<Asked, Problem> {
        let options = self.options();
        let prefix = self.input_prefix.unwrap_or_default() + &self.prompt.unwrap_or_default();
        let suffix = self.input_suffix.unwrap_or_default();
        let files: Vec<(String, String)> = self
            .input_extra
            .unwrap_or_default()
            .into_iter()
            .map(|file| (file.filename, file.text))
            .collect();
        let is_blank = prefix.is_empty() && suffix.trim().is_empty() && files.is_empty();
        let mut request = Request::complete(prefix, suffix);
        request.prompt_only = is_blank;
        if let Task::Complete { extra, language, .. } = &mut request.task {
            *language = self.language.unwrap_or_default().to_lowercase();
            *extra = files;
        }
        options.ask(vec![request], DEFAULT_COMPLETION_TOKENS)
    }
}

impl TextBody {
    /// What it asks for.
    pub(crate) fn into_asked(mut self) -> Result<Asked, Problem> {
        let options = self.options();
        let prompts = self.prompt.into_prompts(MAX_CHOICES + 1)?;
        options.ask(prompts.into_iter().map(Request::pieces).collect(), DEFAULT_MAX_TOKENS)
    }
}

/// An error that names the field that was sent, and not what the service calls it.
pub(crate) fn named_as_sent(problem: Problem) -> Problem {
    let Some(field) = &problem.field else { return problem };
    let sent = match field.as_str() {
        "prefix" => "input_prefix",
        "suffix" => "input_suffix",
        "max_tokens" => "n_predict",
        "repetition_penalty" => "repeat_penalty",
        "response_format" => "json_schema",
        other => other,
    };
    let message = match problem.message.strip_prefix(field.as_str()) {
        Some(rest) => format!("{sent}{rest}"),
        None => problem.message.clone(),
    };
    Problem { field: Some(sent.to_owned()), message, ..problem }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hapa_service::PromptPiece;
    use std::iter::zip;

    fn infill(json: &str) -> Asked {
        serde_json::from_str::<InfillBody>(json).unwrap().into_asked().unwrap()
    }

    fn only(mut requests: Vec<Request>) -> Request {
        assert_eq!(requests.len(), 1);
        requests.remove(0)
    }

    #[test]
    fn several_prompts_have_one_completion_each() {
        let asked = |json: &str| serde_json::from_str::<TextBody>(json).unwrap().into_asked();
        let several = asked(r#"{"prompt":["a",[1,2]],"stop":["x"],"n_predict":3}"#).unwrap();
        let tokens = PromptPiece::Tokens(vec![1, 2]);
        let tasks = [Request::raw("a").task, Request::pieces(vec![tokens]).task];
        assert_eq!(several.requests.len(), 2);
        for (request, task) in zip(&several.requests, tasks) {
            assert_eq!(request.task, task);
            assert_eq!((request.max_tokens, &request.stop[..]), (3, &["x".to_owned()][..]));
        }
        let problem = asked(r#"{"prompt":["a","b"],"n_cmpl":2}"#).unwrap_err();
        assert_eq!(problem.field.as_deref(), Some("n_cmpl"));
        let many = vec!["a"; MAX_CHOICES + 1];
        let problem = asked(&serde_json::json!({ "prompt": many }).to_string()).unwrap_err();
        assert_eq!(problem.field.as_deref(), Some("prompt"));
    }

    #[test]
    fn negative_numbers_mean_the_default() {
        let asked = infill(
            r#"{"input_prefix":"a\n","prompt":"b","input_suffix":"c","n_predict":-1,"top_k":-5,"seed":-1,
                "temperature":-1,"repeat_last_n":-1,"n_indent":-1,"t_max_predict_ms":-1,
                "input_extra":[{"filename":"x.py","text":"y"}],"samplers":["top_k"],"cache_prompt":true}"#,
        );
        let request = only(asked.requests);
        assert_eq!(request.max_tokens, DEFAULT_COMPLETION_TOKENS);
        assert_eq!((request.sampling.top_k, request.sampling.seed), (0, None));
        assert_eq!(
            (request.sampling.temperature, request.sampling.repetition_window),
            (0.0, usize::MAX)
        );
        assert_eq!((request.min_indent, request.writing_time), (0, None));
        assert_eq!(
            request.task,
            Task::Complete {
                prefix: "a\nb".into(),
                suffix: "c".into(),
                language: String::new(),
                file_path: None,
                extra: vec![("x.py".into(), "y".into())]
            }
        );
    }

    #[test]
    fn null_is_absent() {
        let fields = [
            "model",
            "input_suffix",
            "input_extra",
            "prompt",
            "language",
            "n_predict",
            "temperature",
            "top_p",
            "top_k",
            "min_p",
            "repeat_penalty",
            "repeat_last_n",
            "seed",
            "stop",
            "n_indent",
            "t_max_predict_ms",
            "n_cmpl",
            "json_schema",
            "grammar",
            "response_fields",
            "stream",
        ];
        let nulls: Vec<String> = fields.iter().map(|field| format!(r#""{field}":null"#)).collect();
        let asked = infill(&format!(r#"{{"input_prefix":"a",{}}}"#, nulls.join(",")));
        let absent = infill(r#"{"input_prefix":"a"}"#);
        assert_eq!(asked.requests, absent.requests);
        assert_eq!((asked.count, asked.streams, asked.fields.len()), (1, false, 0));
        let asked =
            infill(r#"{"input_prefix":null,"input_extra":[{"filename":null,"text":null}]}"#);
        assert!(!asked.requests[0].prompt_only);
    }

    #[test]
    fn what_ends_a_completion() {
        let asked = infill(
            r#"{"input_prefix":"a","stop":["","x"],"n_indent":4,"t_max_predict_ms":250,"n_cmpl":3,
                "response_fields":["content"]}"#,
        );
        let request = only(asked.requests);
        assert_eq!(
            (request.min_indent, request.writing_time),
            (4, Some(Duration::from_millis(250)))
        );
        assert_eq!((request.stop, asked.count), (vec!["x".to_owned()], 3));
        assert_eq!(asked.fields, ["content"]);
    }

    #[test]
    fn reading_without_writing() {
        for (json, prompt_only) in [
            (r#"{"input_prefix":"a","n_predict":0,"n_cmpl":3}"#, true),
            (
                r#"{"input_prefix":"","input_suffix":"","prompt":"","input_extra":[{"text":"x"}],"n_predict":0}"#,
                true,
            ),
            (r#"{"input_prefix":"","input_suffix":"\n","prompt":"","input_extra":[]}"#, true),
            (r#"{"input_suffix":"x"}"#, false),
            (r#"{"input_extra":[{"text":"x"}],"n_predict":1}"#, false),
        ] {
            let asked = infill(json);
            assert_eq!(asked.requests[0].prompt_only, prompt_only, "{json}");
            // The room of the prompt is that of the request that it is read for.
            let tokens = if prompt_only || !json.contains("n_predict") { 128 } else { 1 };
            assert_eq!((asked.requests[0].max_tokens, asked.count), (tokens, 1), "{json}");
        }
    }

    #[test]
    fn what_cannot_be_done_is_refused() {
        for (field, json) in [
            ("n_cmpl", r#"{"prompt":"a","n_cmpl":0}"#),
            ("n_cmpl", r#"{"prompt":"a","n_cmpl":6}"#),
            ("grammar", r#"{"prompt":"a","grammar":"root ::= \"a\""}"#),
        ] {
            let body: TextBody = serde_json::from_str(json).unwrap();
            assert_eq!(body.into_asked().unwrap_err().field.as_deref(), Some(field));
        }
        let plain: TextBody = serde_json::from_str(r#"{"prompt":"a","grammar":""}"#).unwrap();
        let asked = plain.into_asked().unwrap();
        assert_eq!(
            (&asked.requests[0].task, asked.requests[0].max_tokens),
            (&Request::raw("a").task, 512)
        );
    }

    #[test]
    fn errors_name_what_was_sent() {
        for (field, sent) in
            [("prefix", "input_prefix"), ("max_tokens", "n_predict"), ("stop", "stop")]
        {
            let problem = named_as_sent(Problem::invalid(field, "is wrong"));
            assert_eq!(problem.field.as_deref(), Some(sent));
            assert_eq!(problem.message, format!("{sent}: is wrong"));
        }
    }
}
