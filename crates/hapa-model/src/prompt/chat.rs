//! Chat templates: the Jinja programs that model files carry.
//!
//! A template comes from a file of the internet and runs on every request, so it runs in `minijinja`, which
//! gives it no files, network or host objects, with a limit on its steps and on its output.

use std::io;
use std::path::Path;

use minijinja::value::Value;
use minijinja::{Environment, Error, ErrorKind};
use serde::{Deserialize, Serialize};

use super::environment;
use super::tools::{ToolCall, ToolDefinition};
use crate::error::{ModelError, Result};
use crate::gguf::GgufFile;
use crate::tokenizer::Tokenizer;

/// Longest template taken; the longest known ones have 20 KB.
const MAX_SOURCE_BYTES: usize = 1 << 20;
/// Steps for a conversation, and for each of its messages. Known templates take a few dozen a message.
const BASE_FUEL: u64 = 500_000;
const FUEL_PER_MESSAGE: u64 = 5_000;
/// Output that a template may add to the messages.
const MAX_ADDED_BYTES: usize = 1 << 20;
/// How often a template may repeat the messages.
const MAX_REPEATS: usize = 4;

const NAME: &str = "chat";
/// Stands behind the text that an answer goes on with while the template runs, and shows where that text ends. No template knows
/// it, and blanks before it are no longer at an end, where templates cut them.
const GOES_ON: &str = "\u{F8FF}goes on\u{F8FF}";

/// Who says something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Standing instructions.
    System,
    /// The person.
    User,
    /// The model.
    Assistant,
    /// The result of a tool that the model called.
    Tool,
}

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChatMessage {
    /// Who says it.
    pub role: Role,
    /// What is said.
    pub content: String,
    /// Tools that an assistant's message calls.
    #[serde(skip_serializing_if = "Vec::is_empty", skip_deserializing)]
    pub tool_calls: Vec<ToolCall>,
}

impl ChatMessage {
    /// A message.
    pub fn new(role: Role, content: impl Into<String>) -> Self {
        Self { role, content: content.into(), tool_calls: Vec::new() }
    }

    /// At the end of a conversation it is the beginning of the answer, which goes on with it: a text of the assistant.
    pub fn begins_answer(&self) -> bool {
        self.role == Role::Assistant && self.tool_calls.is_empty()
    }
}

/// A compiled chat template.
pub struct ChatTemplate {
    environment: Environment<'static>,
    source: String,
    bos: String,
    eos: String,
}

impl ChatTemplate {
    /// The template of a model file; `None` when it has none.
    ///
    /// # Errors
    /// [`ModelError::Template`] when it cannot be compiled, [`ModelError::InvalidGguf`] when it is no text.
    pub fn from_gguf(file: &GgufFile, tokenizer: &Tokenizer) -> Result<Option<Self>> {
        file.metadata()
            .opt_str("tokenizer.chat_template")?
            .map(|source| Self::for_tokenizer(source, tokenizer))
            .transpose()
    }

    /// The template beside a `tokenizer.json`: `chat_template.jinja`, or the one in
    /// `tokenizer_config.json`; `None` when there is none.
    ///
    /// # Errors
    /// [`ModelError::Template`] when a file cannot be read or the template not be compiled.
    pub fn from_folder(folder: &Path, tokenizer: &Tokenizer) -> Result<Option<Self>> {
        let read = |name: &str| {
            let path = folder.join(name);
            match std::fs::read_to_string(&path) {
                Ok(text) => Ok(Some(text)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                Err(error) => Err(problem(format!("{}: {error}", path.display()))),
            }
        };
        if let Some(source) = read("chat_template.jinja")? {
            return Self::for_tokenizer(&source, tokenizer).map(Some);
        }
        let Some(settings) = read("tokenizer_config.json")? else {
            return Ok(None);
        };
        let settings: serde_json::Value = serde_json::from_str(&settings)
            .map_err(|error| problem(format!("tokenizer_config.json: {error}")))?;
        let source = match settings.get("chat_template") {
            Some(serde_json::Value::String(source)) => Some(source.as_str()),
            // Several with names, of which one is for plain chats.
            Some(serde_json::Value::Array(entries)) => entries
                .iter()
                .find(|entry| entry["name"] == "default")
                .and_then(|entry| entry["template"].as_str()),
            _ => None,
        };
        source.map(|source| Self::for_tokenizer(source, tokenizer)).transpose()
    }

    fn for_tokenizer(source: &str, tokenizer: &Tokenizer) -> Result<Self> {
        let text = |id: Option<u32>| id.map(|id| tokenizer.token_text(id)).unwrap_or_default();
        Self::new(source, &text(tokenizer.bos()), &text(tokenizer.eos()))
    }

    /// Compiles a template. `bos` and `eos` are the texts of the tokens that begin and end a
    /// sequence.
    ///
    /// # Errors
    /// [`ModelError::Template`] with the line that is wrong.
    pub fn new(source: &str, bos: &str, eos: &str) -> Result<Self> {
        if source.len() > MAX_SOURCE_BYTES {
            return Err(problem(format!(
                "has {} bytes, expected at most {MAX_SOURCE_BYTES}",
                source.len()
            )));
        }
        let mut environment = environment::new();
        environment
            .add_template_owned(NAME, environment::without_generation_tags(source))
            .map_err(|error| problem(format!("cannot be compiled: {}", describe(&error))))?;
        Ok(Self {
            environment,
            source: source.to_owned(),
            bos: bos.to_owned(),
            eos: eos.to_owned(),
        })
    }

    /// The template as the model brought it.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Renders a conversation. `add_generation_prompt` ends it with the start of the model's turn.
    ///
    /// # Errors
    /// [`ModelError::Template`] when the template refuses the messages, fails, takes too many steps or
    /// writes too much.
    pub fn render(&self, messages: &[ChatMessage], add_generation_prompt: bool) -> Result<String> {
        self.render_with_tools(messages, &[], add_generation_prompt)
    }

    /// Whether the template has a place for tools.
    pub fn takes_tools(&self) -> bool {
        self.source.contains("tools")
    }

    /// [`Self::render`] for a conversation in which the model may call tools.
    ///
    /// # Errors
    /// As [`Self::render`], and when the template has no place for tools.
    pub fn render_with_tools(
        &self,
        messages: &[ChatMessage],
        tools: &[ToolDefinition],
        add_generation_prompt: bool,
    ) -> Result<String> {
        if !tools.is_empty() && !self.takes_tools() {
            return Err(problem("has no place for tools; use a model that can call them"));
        }
        let tool_bytes = |tool: &ToolDefinition| {
            tool.name.len()
                + tool.description.as_ref().map_or(0, String::len)
                + tool.parameters.to_string().len()
        };
        let content: usize = messages.iter().map(|message| message.content.len()).sum::<usize>()
            + tools.iter().map(tool_bytes).sum::<usize>();
        let limit = content.saturating_mul(MAX_REPEATS).saturating_add(MAX_ADDED_BYTES);
        // Cloning an environment is cheap: what it holds is shared.
        let mut environment = self.environment.clone();
        environment
            .set_fuel(Some(BASE_FUEL + FUEL_PER_MESSAGE.saturating_mul(messages.len() as u64)));
        let context = minijinja::context! {
            messages => Value::from(minijinja::value::Serde(messages)),
            add_generation_prompt,
            bos_token => self.bos.as_str(),
            eos_token => self.eos.as_str(),
            // Hugging Face passes none, too: templates ask `if tools` and `tools is not none`.
            tools => match tools {
                [] => Value::from(()),
                tools => Value::from(minijinja::value::Serde(tools)),
            },
            documents => Value::from(()),
        };
        let mut output = Capped { bytes: Vec::new(), limit };
        environment
            .get_template(NAME)
            .and_then(|template| template.render_captured_to(context, &mut output).map(|_| ()))
            .map_err(|error| match error.kind() {
                ErrorKind::OutOfFuel => problem("takes too many steps; it may loop without end"),
                ErrorKind::WriteFailure => problem(format!("writes more than {limit} bytes")),
                _ => problem(describe(&error)),
            })?;
        String::from_utf8(output.bytes).map_err(|error| problem(error.to_string()))
    }

    /// Renders a conversation up to where the model is to write: the start of its turn or, where the conversation ends with a
    /// [beginning of the answer](ChatMessage::begins_answer), the end of that.
    ///
    /// # Errors
    /// As [`Self::render_with_tools`], and when the template changes that beginning, so that the answer would go on with something
    /// else.
    pub fn render_prompt(
        &self,
        messages: &[ChatMessage],
        tools: &[ToolDefinition],
    ) -> Result<String> {
        let Some(last) = messages.last().filter(|last| last.begins_answer()) else {
            return self.render_with_tools(messages, tools, true);
        };
        let mut marked = messages.to_vec();
        if let Some(last) = marked.last_mut() {
            last.content.push_str(GOES_ON);
        }
        let mut prompt = self.render_with_tools(&marked, tools, false)?;
        // Blanks before it are cut by some templates, and the model never sees them in an answer of its own.
        let begun = last.content.trim_start();
        match prompt.rfind(GOES_ON) {
            Some(end) if prompt[..end].ends_with(begun) => {
                prompt.truncate(end);
                Ok(prompt)
            }
            _ => Err(problem(
                "changes the assistant's text at the end of the messages, which the answer would go on with; end with a message of \
                 the user",
            )),
        }
    }

    /// Renders a conversation and encodes it. The begin-of-sequence token stands once, whether the
    /// template, the tokenizer or both would write it.
    ///
    /// # Errors
    /// See [`Self::render`] and [`Tokenizer::encode`].
    pub fn tokens(
        &self,
        tokenizer: &Tokenizer,
        messages: &[ChatMessage],
        add_generation_prompt: bool,
    ) -> Result<Vec<u32>> {
        let prompt = self.render(messages, add_generation_prompt)?;
        self.encode(tokenizer, &prompt)
    }

    /// Encodes what the template wrote.
    pub(crate) fn encode(&self, tokenizer: &Tokenizer, prompt: &str) -> Result<Vec<u32>> {
        tokenizer.encode_prompt(prompt)
    }
}

impl std::fmt::Debug for ChatTemplate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChatTemplate")
            .field("source_bytes", &self.source.len())
            .field("bos", &self.bos)
            .field("eos", &self.eos)
            .finish_non_exhaustive()
    }
}

fn problem(problem: impl Into<String>) -> ModelError {
    ModelError::Template { problem: problem.into() }
}

/// An error with its causes in one line.
fn describe(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// A buffer that refuses to grow past its limit.
struct Capped {
    bytes: Vec<u8>,
    limit: usize,
}

impl io::Write for Capped {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() > self.limit - self.bytes.len() {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "output limit"));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(source: &str) -> Result<String> {
        let messages =
            [ChatMessage::new(Role::System, "be brief"), ChatMessage::new(Role::User, "hi <b>")];
        ChatTemplate::new(source, "<s>", "</s>")?.render(&messages, true)
    }

    #[track_caller]
    fn assert_fails(source: &str, expected: &str) {
        let message = render(source).unwrap_err().to_string();
        assert!(message.contains(expected), "`{message}` does not say `{expected}`");
    }

    #[test]
    fn what_templates_of_the_field_use() {
        for (source, expected) in [
            ("{{ bos_token }}{{ messages[0].content }}{{ eos_token }}", "<s>be brief</s>"),
            (
                "{% for m in messages %}\n    {% if loop.first %}\n{{ m['role'] }}\n    {% endif %}\n{% endfor %}",
                "system\n",
            ),
            ("{% for m in messages[1:] %}{{ m.content.upper().strip() }}{% endfor %}", "HI <B>"),
            ("{% if tools %}x{% else %}y{% endif %}{{ nothing }}", "y"),
            ("{% if messages[0].tool_calls is defined %}x{% else %}y{% endif %}", "y"),
            (
                "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
                "2",
            ),
            ("{% macro f(x) %}[{{ x }}]{% endmacro %}{{ f(messages | length) }}", "[2]"),
            ("{{ messages[0] | tojson }}", r#"{"role": "system", "content": "be brief"}"#),
            ("{{ {'a': ['<', 1]} | tojson }}", r#"{"a": ["<", 1]}"#),
            ("{{ [1] | tojson(indent=2) }}", "[\n  1\n]"),
            ("{{ messages[0].get('name', 'none') }}", "none"),
            (
                "{% for m in messages %}{% if loop.last %}{% break %}{% endif %}{{ m.role }}{% endfor %}",
                "system",
            ),
            ("{% generation %} a {%- endgeneration %} b{{ 'generation' }}", " a bgeneration"),
            ("{{ strftime_now('%Y') | length }}", "4"),
            ("{{ messages[-1]['content'].split(' ')[0] }}", "hi"),
            ("{% if add_generation_prompt %}go\n{% endif %}\n", "go\n"),
        ] {
            assert_eq!(render(source).unwrap(), expected, "{source}");
        }
    }

    #[test]
    fn refusals_and_failures_are_told() {
        assert_fails(
            "{% if messages[0].role == 'system' %}{{ raise_exception('no system message') }}{% endif %}",
            "refuses the messages: no system message",
        );
        assert_fails("{% for m in %}", "cannot be compiled");
        assert_fails("{{ nothing.attribute }}", "undefined");
        assert_fails("{{ messages[0].content.no_such_method() }}", "no_such_method");
        assert_fails("{% include '/etc/passwd' %}", "/etc/passwd");
        assert_fails(&" ".repeat(MAX_SOURCE_BYTES + 1), "at most");
    }

    #[test]
    fn endless_work_and_output_are_stopped() {
        let nested = "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}";
        assert_fails(nested, "too many steps");
        assert_fails("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "recursion");
        assert_fails(
            "{% set x = 'x' * 100000 %}{% for a in range(9999) %}{{ x }}{% endfor %}",
            "writes more than",
        );
        assert_fails("{{ 'x' * 10000000000 }}", "too large");
        assert_fails("{{ range(100000000) | list }}", "range");
    }

    #[test]
    fn a_begun_answer_goes_on() {
        let source = "{% for m in messages %}[{{ m.role }}]{{ m.content | trim }}[end]{% endfor %}\
                      {% if add_generation_prompt %}[assistant]{% endif %}";
        let template = ChatTemplate::new(source, "", "").unwrap();
        let user = ChatMessage::new(Role::User, "hi ");
        let prompt = |begun: &str| {
            let messages = [user.clone(), ChatMessage::new(Role::Assistant, begun)];
            template.render_prompt(&messages, &[])
        };
        assert_eq!(
            template.render_prompt(std::slice::from_ref(&user), &[]).unwrap(),
            "[user]hi[end][assistant]"
        );
        assert_eq!(prompt("def f(x):\n    ").unwrap(), "[user]hi[end][assistant]def f(x):\n    ");
        assert_eq!(prompt("  x").unwrap(), "[user]hi[end][assistant]x");
        assert_eq!(prompt("").unwrap(), "[user]hi[end][assistant]");
        let mut called = ChatMessage::new(Role::Assistant, "");
        called.tool_calls.push(ToolCall { name: "f".to_owned(), arguments: "{}".to_owned() });
        let prompt = template.render_prompt(&[user.clone(), called], &[]).unwrap();
        assert!(prompt.ends_with("[end][assistant]"), "a call is whole: {prompt}");
        for source in ["{{ messages[0].content }}", "{{ messages[-1].content | upper }}"] {
            let template = ChatTemplate::new(source, "", "").unwrap();
            let messages = [user.clone(), ChatMessage::new(Role::Assistant, "x")];
            let error = template.render_prompt(&messages, &[]).unwrap_err().to_string();
            assert!(error.contains("changes the assistant's text"), "{error}");
        }
    }

    #[test]
    fn long_conversations_fit() {
        let source = "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>' }}{% endfor %}";
        let template = ChatTemplate::new(source, "", "").unwrap();
        let messages = vec![ChatMessage::new(Role::User, "x".repeat(1_000)); 20_000];
        let text = template.render(&messages, false).unwrap();
        let each = 1_000 + "<|im_start|>user\n<|im_end|>".len();
        assert_eq!(text.len(), 20_000 * each);
    }
}
