//! The description of the API: OpenAPI 3.1 from the handlers and the wire's types, and a page that shows it.

use std::fmt::Write as _;
use std::sync::LazyLock;

use serde::Serialize;
use serde_json::{Value, json};
use utoipa::{OpenApi, ToSchema};

use super::{anthropic, code, llama, openai, operations, profiles, traces};
use crate::deadline::X_REQUEST_TIMEOUT;
use crate::problem::Dialect;

/// HAPA's errors.
#[derive(Debug, Serialize, ToSchema)]
struct HapaError {
    /// `error`.
    status: String,
    /// What went wrong.
    error_message: String,
    /// Its code: `VALIDATION_ERROR`, `SUPERSEDED`, `OVERLOADED`, ...
    error_code: String,
    /// `request_path`, `timestamp`, `request_id`; where known `field` and `retry_after_seconds`.
    error_details: Value,
}

/// OpenAI's errors.
#[derive(Debug, Serialize, ToSchema)]
struct OpenAiError {
    /// `message`, `type`, `param`, `code`.
    error: Value,
}

/// Anthropic's errors.
#[derive(Debug, Serialize, ToSchema)]
struct AnthropicError {
    /// `error`.
    #[serde(rename = "type")]
    kind: String,
    /// `type` and `message`.
    error: Value,
    /// Names the request in the server's log.
    request_id: String,
}

/// Routes that give an answer of the model, and take a deadline.
const ANSWERING: [&str; 9] = [
    "/api/v1/code/generate",
    "/api/v1/code/generate/batch",
    "/api/v1/code/complete",
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/messages",
    "/infill",
    "/completion",
    "/completions",
];

/// Of these the one that gives all answers at once.
const NOT_STREAMING: &str = "/api/v1/code/generate/batch";

/// Routes that give an array where several answers are asked for.
const GIVING_SEVERAL: [&str; 3] = ["/infill", "/completion", "/completions"];

#[derive(OpenApi)]
#[openapi(
    info(
        title = "HAPA",
        description = "Backend of a Python coding assistant: HAPA's own API, OpenAI's, Anthropic's, and the part of llama-server's that \
                       editors use. Every response carries `x-request-id` and `server-timing`, every answer `x-hapa-cache`. \
                       With `stream: true` answers come as server-sent events.",
        license(name = "MIT OR Apache-2.0")
    ),
    paths(
        code::generate, code::generate_batch, code::complete, code::validate, code::validate_batch,
        openai::chat, openai::completions, openai::models, openai::model,
        anthropic::messages, anthropic::count_tokens,
        llama::infill, llama::completion, llama::completions, llama::tokenize, llama::detokenize, llama::props, llama::slots,
        traces::traces, traces::trace, profiles::cpu, profiles::heap,
        operations::health, operations::api_health, operations::ready, operations::stats, operations::metrics,
        openapi_json, docs
    ),
    components(schemas(HapaError, OpenAiError, AnthropicError)),
    tags(
        (name = "HAPA", description = "HAPA's own API"),
        (name = "OpenAI", description = "For OpenAI's clients"),
        (name = "Anthropic", description = "For Anthropic's clients"),
        (name = "llama-server", description = "For editors that speak to llama-server"),
        (name = "Operations", description = "For operators")
    )
)]
struct Description;

/// The document.
static DOCUMENT: LazyLock<Value> = LazyLock::new(|| {
    let mut document = serde_json::to_value(Description::openapi()).unwrap_or_default();
    // The empty one: a server without a key file asks for none.
    document["security"] = json!([{}, { "ApiKey": [] }, { "Bearer": [] }]);
    document["components"]["securitySchemes"] = json!({
        "ApiKey": { "type": "apiKey", "in": "header", "name": "X-API-Key" },
        "Bearer": { "type": "http", "scheme": "bearer" },
    });
    // `response_fields` may ask for any of them.
    if let Some(response) = document["components"]["schemas"]["InfillResponse"].as_object_mut() {
        response.remove("required");
    }
    // The same body is counted without one.
    let body = &mut document["paths"]["/v1/messages"]["post"]["requestBody"]["content"];
    let schema = &mut body["application/json"]["schema"];
    *schema = json!({ "allOf": [schema.take(), { "required": ["max_tokens"] }] });
    let paths = document["paths"].as_object_mut().into_iter().flatten();
    for (path, operations) in paths {
        let shape = match Dialect::of(path) {
            Dialect::Hapa => "HapaError",
            Dialect::OpenAi => "OpenAiError",
            Dialect::Anthropic => "AnthropicError",
        };
        for operation in operations.as_object_mut().into_iter().flat_map(|map| map.values_mut()) {
            if ANSWERING.contains(&path.as_str()) {
                operation["parameters"] = json!([{
                    "name": X_REQUEST_TIMEOUT.as_str(),
                    "in": "header",
                    "required": false,
                    "description": "Seconds, with decimals, in which the answer must be whole",
                    "schema": { "type": "number", "exclusiveMinimum": 0, "maximum": 86400 },
                }]);
                if path != NOT_STREAMING {
                    let content = &mut operation["responses"]["200"]["content"];
                    content["text/event-stream"] = json!({ "schema": {
                        "type": "string",
                        "description": "With `stream`: the answer as it is written, as server-sent events",
                    } });
                }
            }
            if GIVING_SEVERAL.contains(&path.as_str()) {
                let schema =
                    &mut operation["responses"]["200"]["content"]["application/json"]["schema"];
                let one = schema.take();
                *schema = json!({ "oneOf": [one, { "type": "array", "items": one }] });
            }
            operation["responses"]["default"] = json!({
                "description": "Why the request was not answered",
                "content": { "application/json": { "schema": { "$ref": format!("#/components/schemas/{shape}") } } },
            });
        }
    }
    document
});

static JSON: LazyLock<String> =
    LazyLock::new(|| serde_json::to_string_pretty(&*DOCUMENT).unwrap_or_default());

static PAGE: LazyLock<String> = LazyLock::new(|| page(&DOCUMENT));

/// This description.
#[utoipa::path(get, path = "/openapi.json", tag = "Operations", responses((status = 200, body = Object)))]
pub(super) async fn openapi_json() -> impl axum::response::IntoResponse {
    ([(axum::http::header::CONTENT_TYPE, "application/json")], JSON.as_str())
}

/// This description for people.
#[utoipa::path(get, path = "/docs", tag = "Operations", responses((status = 200, body = String, content_type = "text/html")))]
pub(super) async fn docs() -> impl axum::response::IntoResponse {
    use axum::http::header;
    // The page has no script and asks nobody for anything.
    let policy =
        "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'";
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, policy),
    ];
    (headers, PAGE.as_str())
}

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;max-width:56rem;margin:2rem auto;padding:0 1rem}\
code,pre{font:14px/1.4 ui-monospace,monospace}pre{overflow-x:auto;padding:.75rem;border:1px solid #8886}\
summary{cursor:pointer;padding:.35rem 0}.m{display:inline-block;min-width:3.5rem;font-weight:700}\
table{border-collapse:collapse}td,th{text-align:left;vertical-align:top;padding:.2rem .8rem .2rem 0}\
@media(prefers-color-scheme:dark){body{background:#16181c;color:#e4e6ea}a{color:#8ab4f8}}";

/// The document as a page of HTML: routes by tag, each with what it takes and gives.
fn page(document: &Value) -> String {
    let mut html = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>HAPA: API</title><style>{STYLE}</style><h1>HAPA: API</h1><p>{}</p>\
         <p>For programs: <a href=\"/openapi.json\">openapi.json</a></p>",
        escape(document["info"]["description"].as_str().unwrap_or_default())
    );
    for tag in document["tags"].as_array().into_iter().flatten() {
        let name = tag["name"].as_str().unwrap_or_default();
        let _ = write!(html, "<h2>{}</h2>", escape(name));
        for (path, operations) in document["paths"].as_object().into_iter().flatten() {
            for (method, operation) in operations.as_object().into_iter().flatten() {
                if operation["tags"][0] == name {
                    show(&mut html, document, (method, path), operation);
                }
            }
        }
    }
    html + "</html>"
}

fn show(html: &mut String, document: &Value, (method, path): (&str, &str), operation: &Value) {
    let text = |field: &str| escape(operation[field].as_str().unwrap_or_default());
    let _ = write!(
        html,
        "<details><summary><code><span class=\"m\">{}</span>{}</code> {}</summary><p>{}</p>",
        method.to_uppercase(),
        escape(path),
        text("summary"),
        text("description")
    );
    let body = &operation["requestBody"]["content"]["application/json"]["schema"];
    if !body.is_null() {
        fields(html, "Takes", resolve(document, body));
    }
    for (status, response) in operation["responses"].as_object().into_iter().flatten() {
        let schema = &response["content"]["application/json"]["schema"];
        if schema.is_object() && status != "default" {
            fields(html, &format!("Gives ({})", escape(status)), resolve(document, schema));
        }
    }
    html.push_str("</details>");
}

/// The fields of an object as a table.
fn fields(html: &mut String, title: &str, schema: &Value) {
    let Some(properties) = schema["properties"].as_object() else { return };
    let _ = write!(html, "<h4>{title}</h4><table>");
    let required = schema["required"].as_array();
    for (name, property) in properties {
        let is_required =
            required.is_some_and(|required| required.iter().any(|known| known == name));
        let _ = write!(
            html,
            "<tr><td><code>{}</code>{}<td>{}",
            escape(name),
            if is_required { " *" } else { "" },
            escape(property["description"].as_str().unwrap_or_default())
        );
    }
    html.push_str("</table>");
}

/// What a schema refers to; of several forms or parts the first.
fn resolve<'a>(document: &'a Value, schema: &'a Value) -> &'a Value {
    let target = |schema: &'a Value| match schema["$ref"].as_str() {
        Some(reference) => document.pointer(reference.trim_start_matches('#')).unwrap_or(schema),
        None => schema,
    };
    let found = target(schema);
    found["oneOf"].get(0).or_else(|| found["allOf"].get(0)).map_or(found, target)
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_is_described() {
        let routes = include_str!("mod.rs").split(".route(\"").skip(1);
        let routes: Vec<&str> = routes.map(|rest| rest.split('"').next().unwrap()).collect();
        assert!(routes.len() > 20, "{routes:?}");
        // The page for people, and a route that only tests have.
        let others = ["/", "/web/{*file}", "/test/panic"];
        for route in routes.into_iter().filter(|route| !others.contains(route)) {
            assert!(DOCUMENT["paths"][route].is_object(), "{route} is not described");
        }
    }

    #[test]
    fn the_document_is_the_one_that_is_checked_in() {
        insta::assert_snapshot!(JSON.as_str());
    }

    #[test]
    fn what_it_says_of_lengths_is_what_requests_are_held_to() {
        let limits = hapa_service::Limits::default();
        let stated = |schema: &str, field: &str, bound: &str| {
            let field = &DOCUMENT["components"]["schemas"][schema]["properties"][field];
            field[bound].as_u64().and_then(|bound| usize::try_from(bound).ok())
        };
        for (schema, field, bound, limit) in [
            ("GenerateBody", "user_question", "maxLength", limits.question_chars),
            ("GenerateBody", "code_context", "maxLength", limits.context_chars),
            ("GenerateBody", "file_path", "maxLength", limits.name_chars),
            ("GenerateBody", "stop", "maxItems", limits.stop_strings),
            ("CompleteBody", "prefix", "maxLength", limits.prefix_chars),
            ("CompleteBody", "suffix", "maxLength", limits.suffix_chars),
            ("CompleteBody", "document_id", "maxLength", limits.name_chars),
            ("CompleteBody", "input_extra", "maxItems", limits.extra_files),
            ("CompleteBody", "n", "maximum", hapa_service::MAX_CANDIDATES),
            ("CacheOptions", "namespace", "maxLength", limits.name_chars),
            ("ValidateBody", "code", "maxLength", limits.code_chars),
            ("ChatBody", "messages", "maxItems", limits.messages),
            ("ChatBody", "tools", "maxItems", limits.tools),
            ("ChatBody", "n", "maximum", crate::wire::openai::MAX_CHOICES),
            ("MessagesBody", "messages", "maxItems", limits.messages),
            ("MessagesBody", "stop_sequences", "maxItems", limits.stop_strings),
            ("InfillBody", "input_prefix", "maxLength", limits.prefix_chars),
        ] {
            assert_eq!(stated(schema, field, bound), Some(limit), "{schema}.{field}");
        }
    }

    #[test]
    fn references_lead_somewhere() {
        let mut waiting = vec![&*DOCUMENT];
        while let Some(value) = waiting.pop() {
            if let Some(reference) = value.get("$ref").and_then(Value::as_str) {
                assert!(
                    DOCUMENT.pointer(reference.trim_start_matches('#')).is_some(),
                    "{reference}"
                );
            }
            waiting.extend(value.as_array().into_iter().flatten());
            waiting.extend(value.as_object().into_iter().flat_map(serde_json::Map::values));
        }
    }

    #[test]
    fn the_page_needs_no_other_host_and_no_script() {
        assert!(PAGE.contains("/api/v1/code/complete") && PAGE.contains("document_id"));
        assert!(
            !PAGE.contains("<script") && !PAGE.contains("http://") && !PAGE.contains("https://")
        );
    }
}
