//! The arguments of a call as an object, which Anthropic's answers have also where they were cut.

use serde_json::{Map, Value};

/// The object that a call's arguments are; of a call that was cut, what is whole in them.
pub(super) fn input(arguments: &str) -> Value {
    let read = |text: &str| serde_json::from_str(text).ok().filter(Value::is_object);
    let Cut { open, whole, open_there } = Cut::of(arguments);
    read(arguments)
        // What was cut may have ended with a whole value.
        .or_else(|| read(&format!("{arguments}{open}")))
        .or_else(|| read(&format!("{whole}{open_there}")))
        .unwrap_or_else(|| Value::Object(Map::new()))
}

/// Where JSON was cut.
#[derive(Default)]
struct Cut<'a> {
    /// What closes the brackets that are open at its end.
    open: String,
    /// As much of it as is whole but for brackets that are open.
    whole: &'a str,
    /// What closes those.
    open_there: String,
}

impl<'a> Cut<'a> {
    fn of(json: &'a str) -> Self {
        let (mut open, mut in_text, mut escaped) = (Vec::new(), false, false);
        let closing = |open: &[char]| open.iter().rev().collect::<String>();
        let mut cut = Self::default();
        for (at, c) in json.char_indices() {
            if in_text {
                in_text = c != '"' || escaped;
                escaped = c == '\\' && !escaped;
                continue;
            }
            // A value is whole before a comma; a bracket begins or ends one.
            let mut whole_until = at + c.len_utf8();
            match c {
                '{' => open.push('}'),
                '[' => open.push(']'),
                '}' | ']' => {
                    open.pop();
                }
                ',' => whole_until = at,
                _ => {
                    in_text = c == '"';
                    continue;
                }
            }
            (cut.whole, cut.open_there) = (&json[..whole_until], closing(&open));
        }
        cut.open = closing(&open);
        cut
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_cut_call_what_is_whole_is_told() {
        for (arguments, expected) in [
            (r#"{"a": 1}"#, r#"{"a":1}"#),
            ("", "{}"),
            ("{", "{}"),
            (r#"{"a"#, "{}"),
            (r#"{"a": "x"#, "{}"),
            (r#"{"a": "x""#, r#"{"a":"x"}"#),
            (r#"{"a": "x, \"{", "b": tr"#, r#"{"a":"x, \"{"}"#),
            (r#"{"a": [1, {"b": 2}, {"c": "#, r#"{"a":[1,{"b":2},{}]}"#),
            (r#""text"#, "{}"),
        ] {
            assert_eq!(input(arguments).to_string(), expected, "{arguments}");
        }
    }
}
