//! HAPA's own API under `/api/v1`.

mod validate;

use std::time::Duration;

use hapa_service::{
    Answer, CacheControl, CacheReport, DEFAULT_COMPLETION_TOKENS, DEFAULT_MAX_TOKENS, FinishReason,
    MAX_CANDIDATES, Request, SamplingOptions, SyntaxIssue, SyntaxReport, Task, Timings, Usage,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::problem::Problem;
pub use validate::{ValidateBatchBody, ValidateBody, ValidateResponse};

/// Declares a body with the fields that all requests for text have. They stand in the struct itself, and not in a
/// flattened one, so that an error can say which of them is wrong.
macro_rules! text_body {
    ($(#[$doc:meta])* pub struct $name:ident { $($(#[$field_doc:meta])* pub $field:ident: $type:ty,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Deserialize, ToSchema)]
        pub struct $name {
            $($(#[$field_doc])* pub $field: $type,)*
            /// Most tokens of the answer.
            #[serde(default)]
            #[schema(minimum = 1)]
            pub max_tokens: Option<usize>,
            /// 0 (the default) is greedy.
            #[serde(default)]
            #[schema(minimum = 0, maximum = 2)]
            pub temperature: Option<f32>,
            /// Only the most probable tokens that together have this probability.
            #[serde(default)]
            #[schema(exclusive_minimum = 0, maximum = 1)]
            pub top_p: Option<f32>,
            /// Only the k most probable tokens; 0 is all.
            #[serde(default)]
            pub top_k: Option<usize>,
            /// Makes a sampled answer repeatable.
            #[serde(default)]
            #[schema(format = "uint64", maximum = 18446744073709551615u64)]
            pub seed: Option<u64>,
            /// The answer ends before any of these.
            #[serde(default)]
            #[schema(max_items = 16)]
            pub stop: Option<Vec<String>>,
            /// What the response cache may do.
            #[serde(default)]
            pub cache: Option<CacheOptions>,
            /// Which of the models that are served; without it the default one.
            #[serde(default)]
            pub model: Option<String>,
            /// Whether events are sent as the answer is written.
            #[serde(default)]
            pub stream: Option<bool>,
        }

        impl $name {
            /// Writes the common fields into a request. The model is checked elsewhere.
            fn apply(&mut self, request: &mut Request, default_max_tokens: usize) {
                let defaults = SamplingOptions::default();
                request.max_tokens = self.max_tokens.unwrap_or(default_max_tokens);
                request.sampling = SamplingOptions {
                    temperature: self.temperature.unwrap_or(defaults.temperature),
                    top_p: self.top_p.unwrap_or(defaults.top_p),
                    top_k: self.top_k.unwrap_or(defaults.top_k),
                    seed: self.seed,
                    ..defaults
                };
                request.stop = self.stop.take().unwrap_or_default();
                request.cache = self.cache.take().unwrap_or_default().into();
            }
        }
    };
}

text_body! {
    /// Body of `POST /api/v1/code/generate`.
    pub struct GenerateBody {
        /// The question.
        #[schema(min_length = 1, max_length = 10000, pattern = r"\S")]
        pub user_question: String,
        /// Code that the question is about.
        #[serde(default)]
        #[schema(max_length = 50000)]
        pub code_context: Option<String>,
        /// Language of the wanted code; `python` when absent.
        #[serde(default)]
        #[schema(min_length = 1, max_length = 64)]
        pub language: Option<String>,
        /// Where the code belongs.
        #[serde(default)]
        #[schema(max_length = 1024)]
        pub file_path: Option<String>,
    }
}

/// What the response cache may do with a request.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
pub struct CacheOptions {
    /// Compute anew.
    #[serde(default, alias = "no-cache")]
    pub no_cache: bool,
    /// Keep nothing.
    #[serde(default, alias = "no-store")]
    pub no_store: bool,
    /// Keep at most this long, in seconds.
    #[serde(default, alias = "ttl")]
    #[schema(format = "uint64", maximum = 18446744073709551615u64)]
    pub ttl_seconds: Option<u64>,
    /// Requests of different namespaces share nothing.
    #[serde(default)]
    #[schema(max_length = 1024)]
    pub namespace: Option<String>,
}

impl From<CacheOptions> for CacheControl {
    fn from(options: CacheOptions) -> Self {
        let CacheOptions { no_cache, no_store, ttl_seconds, namespace } = options;
        Self {
            no_cache,
            no_store,
            ttl: ttl_seconds.map(Duration::from_secs),
            namespace: namespace.unwrap_or_default(),
        }
    }
}

impl GenerateBody {
    /// The request in the service's terms.
    pub fn into_request(mut self) -> Request {
        let mut request = Request::generate(std::mem::take(&mut self.user_question));
        self.apply(&mut request, DEFAULT_MAX_TOKENS);
        if let Task::Generate { context, language, file_path, .. } = &mut request.task {
            *context = self.code_context;
            if let Some(asked) = self.language {
                *language = asked.to_lowercase();
            }
            *file_path = self.file_path;
        }
        request
    }
}

/// Body of `POST /api/v1/code/generate/batch`.
#[derive(Debug, Clone, Deserialize, ToSchema)]
pub struct BatchBody {
    /// The requests; `stream` is ignored.
    #[schema(min_items = 1)]
    pub requests: Vec<GenerateBody>,
}

/// Answer to several requests at once.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct BatchResponse<T> {
    /// Answers in the order of the requests, each with its own `status`.
    pub results: Vec<BatchResult<T>>,
    /// `success`.
    pub status: &'static str,
    /// How many have an answer.
    pub succeeded: usize,
    /// How many have not.
    pub failed: usize,
}

impl<T> FromIterator<Result<T, Problem>> for BatchResponse<T> {
    fn from_iter<I: IntoIterator<Item = Result<T, Problem>>>(outcomes: I) -> Self {
        let results: Vec<BatchResult<T>> = outcomes.into_iter().map(BatchResult::from).collect();
        let failed = results.iter().filter(|one| matches!(one, BatchResult::Error(_))).count();
        Self { succeeded: results.len() - failed, failed, results, status: "success" }
    }
}

/// One answer of a batch.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(untagged)]
pub enum BatchResult<T> {
    /// It went well.
    Answer(Box<T>),
    /// It did not.
    Error(BatchError),
}

impl<T> From<Result<T, Problem>> for BatchResult<T> {
    fn from(outcome: Result<T, Problem>) -> Self {
        match outcome {
            Ok(answer) => Self::Answer(Box::new(answer)),
            Err(problem) => Self::Error(BatchError::new(problem)),
        }
    }
}

/// A request of a batch that has no answer.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct BatchError {
    /// `error`.
    pub status: &'static str,
    /// What went wrong.
    pub error_message: String,
    /// Its code.
    pub error_code: &'static str,
    /// The field at fault.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
}

impl BatchError {
    pub(crate) fn new(problem: Problem) -> Self {
        Self {
            status: "error",
            error_message: problem.message,
            error_code: problem.code,
            field: problem.field,
        }
    }
}

text_body! {
    /// Body of `POST /api/v1/code/complete`.
    pub struct CompleteBody {
        /// The text before the cursor.
        #[schema(max_length = 50000)]
        pub prefix: String,
        /// The text after the cursor.
        #[serde(default)]
        #[schema(max_length = 50000)]
        pub suffix: Option<String>,
        /// Language of the text; told from `file_path` when absent, and `python` without one. A Python completion ends with
        /// the block that the cursor is in.
        #[serde(default)]
        #[schema(max_length = 64)]
        pub language: Option<String>,
        /// The file that is edited.
        #[serde(default)]
        #[schema(max_length = 1024)]
        pub file_path: Option<String>,
        /// Where the cursor is in the file, in whatever form the editor has it. `prefix` and `suffix` tell all that matters,
        /// so nothing is made of it.
        #[serde(default)]
        pub cursor_position: Option<serde_json::Value>,
        /// Names the document. A newer request for it supersedes this one, which is cancelled and answered with 409
        /// `SUPERSEDED`.
        #[serde(default)]
        #[schema(max_length = 1024)]
        pub document_id: Option<String>,
        /// Other files of the project that may help.
        #[serde(default)]
        #[schema(max_items = 64)]
        pub input_extra: Vec<super::llama::ExtraFile>,
        /// How many different completions are wanted, 1 to 5; only one can be streamed.
        #[serde(default)]
        #[schema(minimum = 1, maximum = 5)]
        pub n: Option<usize>,
    }
}

impl CompleteBody {
    /// The request in the service's terms, and how many candidates are wanted.
    pub(crate) fn into_request(mut self) -> Result<(Request, usize), Problem> {
        let candidates = self.n.unwrap_or(1);
        if !(1..=MAX_CANDIDATES).contains(&candidates) {
            return Err(Problem::invalid(
                "n",
                format!("is {candidates}; 1 to {MAX_CANDIDATES} is allowed"),
            ));
        }
        if candidates > 1 && self.stream == Some(true) {
            return Err(Problem::invalid("n", "only one completion can be streamed"));
        }
        let prefix = std::mem::take(&mut self.prefix);
        let mut first = Request::complete(prefix, self.suffix.take().unwrap_or_default());
        self.apply(&mut first, DEFAULT_COMPLETION_TOKENS);
        first.document_id = self.document_id;
        if let Task::Complete { language, file_path, extra, .. } = &mut first.task {
            *language = match self.language {
                Some(asked) => asked.to_lowercase(),
                None => language_of(self.file_path.as_deref()).to_owned(),
            };
            *file_path = self.file_path;
            *extra = self.input_extra.into_iter().map(|file| (file.filename, file.text)).collect();
        }
        Ok((first, candidates))
    }
}

/// The language of a file by its name: `python`, also without a name, or empty.
pub fn language_of(path: Option<&str>) -> &'static str {
    let extension = path.and_then(|path| {
        let name = path.rsplit(['/', '\\']).next().unwrap_or(path);
        name.rsplit_once('.').map(|(_, extension)| extension)
    });
    match extension {
        None => "python",
        Some(python)
            if ["py", "pyi", "pyw"].iter().any(|known| python.eq_ignore_ascii_case(known)) =>
        {
            "python"
        }
        Some(_) => "",
    }
}

/// Answer of `POST /api/v1/code/complete`, and what `hapa complete --json` prints.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct CompleteResponse {
    /// The texts to insert at the cursor, best first, no two alike.
    pub completions: Vec<String>,
    /// `success`.
    pub status: &'static str,
    /// Always null here.
    pub error_message: Option<String>,
    /// Why the first completion ended: `stop` or `length`.
    pub finish_reason: &'static str,
    /// Tokens of all candidates together.
    pub usage: UsageBody,
    /// What the cache did for the first.
    pub cache: CacheBody,
    /// Times of the first.
    pub timings: TimingsBody,
}

impl CompleteResponse {
    /// The response to candidates, the first of which is the leading one.
    pub fn new(first: &Answer, others: &[Answer]) -> Self {
        let mut completions = vec![first.text.clone()];
        let mut usage = UsageBody::from(&first.usage);
        for answer in others {
            usage.completion_tokens += answer.usage.generated_tokens;
            usage.total_tokens += answer.usage.generated_tokens;
            if !answer.text.trim().is_empty() && !completions.contains(&answer.text) {
                completions.push(answer.text.clone());
            }
        }
        Self {
            completions,
            status: "success",
            error_message: None,
            finish_reason: finish_reason(first.finish),
            usage,
            cache: CacheBody::from(&first.cache),
            timings: TimingsBody::from(&first.timings),
        }
    }
}

/// Answer of `POST /api/v1/code/generate`, and what `hapa generate --json` prints.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct GenerateResponse {
    /// The code; empty when the answer has none.
    pub generated_code: String,
    /// The text around the code.
    pub explanation: String,
    /// `success`.
    pub status: &'static str,
    /// Always null here.
    pub error_message: Option<String>,
    /// Why the answer ended: `stop` or `length`.
    pub finish_reason: &'static str,
    /// Whether the code is valid Python.
    pub syntax: SyntaxBody,
    /// The model that answered.
    pub model: String,
    /// Tokens.
    pub usage: UsageBody,
    /// What the cache did.
    pub cache: CacheBody,
    /// Where the time went.
    pub timings: TimingsBody,
}

impl From<&Answer> for GenerateResponse {
    fn from(answer: &Answer) -> Self {
        Self {
            generated_code: answer.code.clone().unwrap_or_default(),
            explanation: answer.explanation.clone().unwrap_or_default(),
            status: "success",
            error_message: None,
            finish_reason: finish_reason(answer.finish),
            syntax: SyntaxBody::from(&answer.syntax),
            model: answer.model.to_string(),
            usage: UsageBody::from(&answer.usage),
            cache: CacheBody::from(&answer.cache),
            timings: TimingsBody::from(&answer.timings),
        }
    }
}

/// `stop` or `length`.
pub fn finish_reason(reason: FinishReason) -> &'static str {
    match reason {
        FinishReason::Stop | FinishReason::StopString => "stop",
        FinishReason::Length | FinishReason::ContextFull => "length",
    }
}

/// Tokens of an answer.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
pub struct UsageBody {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens of the answer.
    pub completion_tokens: usize,
    /// Both.
    pub total_tokens: usize,
    /// Tokens of the prompt that were not computed again.
    pub cached_tokens: usize,
    /// Pages of the KV cache that prompt and answer lay in; 0 for an answer that was not computed for this request.
    pub kv_pages: usize,
    /// Their bytes.
    pub kv_bytes: usize,
}

impl From<&Usage> for UsageBody {
    fn from(usage: &Usage) -> Self {
        Self {
            prompt_tokens: usage.prompt_tokens,
            completion_tokens: usage.generated_tokens,
            total_tokens: usage.prompt_tokens + usage.generated_tokens,
            cached_tokens: usage.cached_tokens,
            kv_pages: usage.kv_pages,
            kv_bytes: usage.kv_bytes,
        }
    }
}

/// What the response cache did.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct CacheBody {
    /// `hit-l1`, `hit-l2`, `shared`, `miss` or `bypass`.
    pub outcome: &'static str,
    /// Digest of everything that changes the answer.
    pub key: String,
    /// Digest of the prompt.
    pub prompt_hash: String,
    /// Digest of the context.
    pub context_hash: Option<String>,
    /// The answer is the rest of an earlier completion, whose beginning was typed since.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub typed_through: bool,
}

impl From<&CacheReport> for CacheBody {
    fn from(report: &CacheReport) -> Self {
        Self {
            outcome: report.outcome.as_str(),
            key: report.key.clone(),
            prompt_hash: report.prompt_hash.clone(),
            context_hash: report.context_hash.clone(),
            typed_through: report.typed_through,
        }
    }
}

/// Where the time went, in seconds.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
pub struct TimingsBody {
    /// From the request's arrival to the answer.
    pub total_seconds: f64,
    /// Waiting for the model to be loaded.
    pub model_loading_seconds: f64,
    /// Building the prompt.
    pub prompt_seconds: f64,
    /// Waiting in the queue.
    pub queue_seconds: f64,
    /// Computing the prompt.
    pub prefill_seconds: f64,
    /// Computing the answer.
    pub decode_seconds: f64,
    /// From the queue to the first token.
    pub time_to_first_token_seconds: f64,
}

impl From<&Timings> for TimingsBody {
    fn from(timings: &Timings) -> Self {
        // Microseconds are what the clocks are good for.
        let seconds = |time: Duration| (time.as_secs_f64() * 1e6).round() / 1e6;
        Self {
            total_seconds: seconds(timings.total),
            model_loading_seconds: seconds(timings.model_loading),
            prompt_seconds: seconds(timings.prompt),
            queue_seconds: seconds(timings.queue),
            prefill_seconds: seconds(timings.prefill),
            decode_seconds: seconds(timings.decode),
            time_to_first_token_seconds: seconds(timings.time_to_first_token),
        }
    }
}

/// Whether code is valid Python.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct SyntaxBody {
    /// False when there was nothing to check.
    pub checked: bool,
    /// No error was found.
    pub is_valid: bool,
    /// What was found.
    #[schema(value_type = Vec<Object>)]
    pub issues: Vec<SyntaxIssue>,
}

impl From<&SyntaxReport> for SyntaxBody {
    fn from(report: &SyntaxReport) -> Self {
        Self { checked: report.checked, is_valid: report.valid, issues: report.issues.clone() }
    }
}

/// One event of a streamed answer.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum StreamEvent {
    /// More of the answer.
    Delta {
        /// The text as the model wrote it.
        text: String,
        /// The part of it that is certain to be code, without fences; for completions the text itself.
        code: String,
    },
    /// The end: what the request gives without streaming.
    Done(Box<serde_json::Value>),
    /// The end by a failure.
    Error(BatchError),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_becomes_a_request() {
        let body: GenerateBody = serde_json::from_str(
            r#"{"user_question":"q","code_context":"c","language":"Python","max_tokens":9,"temperature":0.5,"seed":3,
               "cache":{"no-cache":true,"ttl":5,"namespace":"n"},"something_else":[1]}"#,
        )
        .unwrap();
        let request = body.into_request();
        assert_eq!(
            request.task,
            Task::Generate {
                question: "q".into(),
                context: Some("c".into()),
                language: "python".into(),
                file_path: None
            }
        );
        assert_eq!(
            (request.max_tokens, request.sampling.temperature, request.sampling.seed),
            (9, 0.5, Some(3))
        );
        assert!(request.cache.no_cache && !request.cache.no_store);
        assert_eq!(
            (request.cache.ttl, request.cache.namespace.as_str()),
            (Some(Duration::from_secs(5)), "n")
        );
    }

    #[test]
    fn completions() {
        let body = |json: &str| serde_json::from_str::<CompleteBody>(json).unwrap().into_request();
        let (request, n) = body(
            r#"{"prefix":"a","suffix":"b","n":3,"document_id":"d","cursor_position":{"line":3},
                "input_extra":[{"filename":"x.py","text":"y"}]}"#,
        )
        .unwrap();
        assert_eq!((n, request.document_id.as_deref()), (3, Some("d")));
        let Task::Complete { language, extra, .. } = request.task else { panic!("a completion") };
        assert_eq!((language.as_str(), extra.len()), ("python", 1));
        for (path, language) in
            [("a/b.py", "python"), ("Makefile", "python"), ("a.d/x.rs", ""), ("x.PYI", "python")]
        {
            assert_eq!(language_of(Some(path)), language, "{path}");
        }
        assert!(
            body(r#"{"prefix":"a","n":0}"#).is_err() && body(r#"{"prefix":"a","n":6}"#).is_err()
        );
        assert!(body(r#"{"prefix":"a","n":2,"stream":true}"#).is_err());
    }
}
