//! The one line about what an answer took, and what should be known of the answer.

use hapa_service::{Answer, FinishReason};

use crate::console::Console;
use crate::text::{count, duration};

/// What an answer took: load, prompt, first token, speed, cache.
fn line(answer: &Answer) -> String {
    let timings = &answer.timings;
    let usage = &answer.usage;
    let mut parts = vec![answer.model.to_string()];
    if !timings.model_loading.is_zero() {
        parts.push(format!("loaded in {}", duration(timings.model_loading)));
    }
    parts.push(count(usage.prompt_tokens, "prompt token"));
    if !timings.time_to_first_token.is_zero() {
        parts.push(format!("first token after {}", duration(timings.time_to_first_token)));
    }
    // The first token belongs to the prompt's time.
    let decoded = usage.generated_tokens.saturating_sub(1) as f64;
    let tokens = count(usage.generated_tokens, "token");
    let seconds = timings.decode.as_secs_f64();
    if decoded > 0.0 && seconds > 0.0 {
        parts.push(format!("{tokens} at {:.1} tokens/s", decoded / seconds));
    } else {
        parts.push(tokens);
    }
    if usage.accepted_tokens > 0 {
        parts.push(format!("{} of them drafted", usage.accepted_tokens));
    }
    parts.push(format!("cache {}", answer.cache.outcome));
    parts.join(" · ")
}

/// Tells people about an answer that was written.
pub(crate) fn show(console: &Console, answer: &Answer) {
    match answer.finish {
        FinishReason::Length => console
            .warn("the answer was cut at the most tokens it may have; --max-tokens allows more"),
        FinishReason::ContextFull => {
            console.warn("the answer was cut: prompt and answer fill the model's context");
        }
        _ => {}
    }
    if answer.syntax.checked && !answer.syntax.valid && answer.finish != FinishReason::Length {
        let place = answer.syntax.issues.first();
        let place = place.map_or(String::new(), |issue| {
            format!(" (line {}, column {}: {})", issue.line, issue.column, issue.message)
        });
        console.warn(&format!("the code is not valid Python{place}"));
    }
    aside(console, answer);
}

/// Tells what an answer took, and nothing else.
pub(crate) fn aside(console: &Console, answer: &Answer) {
    console.aside(&line(answer));
}
