//! What begins with a slash.

use std::path::PathBuf;

use hapa_model::text::edit_distance;

use super::typed_path;

/// What `/help` prints.
pub(super) const HELP: &str = "\
/file PATH      attach a file to the next question
/code           print the code of the last answer
/save FILE      write the code of the last answer to a file
/system TEXT    tell the model something before everything else; without TEXT: nothing
/undo           take the last question and its answer back
/retry          answer the last question anew, with another seed
/clear          begin anew
/max N          most tokens of an answer
/temperature T  0 is always the likeliest token; up to 2
/exit           end (Ctrl-D too)
Lines that end in \\, or stand between two lines of \"\"\", are one message.";

/// Something to do other than to answer.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Command {
    Help,
    Exit,
    Clear,
    Undo,
    Retry,
    Code,
    Save(PathBuf),
    File(PathBuf),
    System(Option<String>),
    Max(usize),
    Temperature(f32),
}

const NAMES: [&str; 12] = [
    "/help",
    "/exit",
    "/quit",
    "/clear",
    "/undo",
    "/retry",
    "/code",
    "/save",
    "/file",
    "/system",
    "/max",
    "/temperature",
];

impl Command {
    /// `None` for a message; what begins with two slashes is one.
    pub(super) fn read(text: &str) -> Option<Result<Self, String>> {
        let line = text.trim();
        if !line.starts_with('/') || line.starts_with("//") || line.contains('\n') {
            return None;
        }
        let (name, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let rest = rest.trim();
        let path = |make: fn(PathBuf) -> Self| match rest {
            "" => Err(format!("{name} needs a path")),
            rest => Ok(make(typed_path(rest))),
        };
        Some(match name {
            "/help" | "/?" => Ok(Self::Help),
            "/exit" | "/quit" => Ok(Self::Exit),
            "/clear" | "/new" => Ok(Self::Clear),
            "/undo" => Ok(Self::Undo),
            "/retry" => Ok(Self::Retry),
            "/code" => Ok(Self::Code),
            "/save" => path(Self::Save),
            "/file" => path(Self::File),
            "/system" => Ok(Self::System((!rest.is_empty()).then(|| rest.to_owned()))),
            "/max" => rest
                .parse()
                .ok()
                .filter(|tokens| (1..=32_768).contains(tokens))
                .map(Self::Max)
                .ok_or_else(|| "/max needs a number of tokens, 1 to 32768".to_owned()),
            "/temperature" => rest
                .parse()
                .ok()
                .filter(|temperature| (0.0..=2.0).contains(temperature))
                .map(Self::Temperature)
                .ok_or_else(|| "/temperature needs a number, 0 to 2".to_owned()),
            other => Err(unknown(other)),
        })
    }
}

fn unknown(name: &str) -> String {
    let nearest = NAMES.into_iter().min_by_key(|known| edit_distance(name, known));
    match nearest.filter(|near| edit_distance(name, near) <= 2) {
        Some(near) => format!("there is no {name}; did you mean {near}?"),
        None => format!("there is no {name}; /help lists what there is"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_told_from_messages() {
        let read = |text| Command::read(text).transpose();
        assert_eq!(read("sort a list"), Ok(None));
        assert_eq!(read("// a comment"), Ok(None));
        assert_eq!(read("/help\nme"), Ok(None));
        assert_eq!(read(" /quit "), Ok(Some(Command::Exit)));
        assert_eq!(read("/file a b.py"), Ok(Some(Command::File("a b.py".into()))));
        assert_eq!(read("/system be brief"), Ok(Some(Command::System(Some("be brief".into())))));
        assert_eq!(read("/system"), Ok(Some(Command::System(None))));
        assert_eq!(read("/temperature 0.5"), Ok(Some(Command::Temperature(0.5))));
        for wrong in ["/save", "/max 0", "/max x", "/temperature 3", "/temperature nan"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
        assert!(read("/hlep").unwrap_err().contains("/help?"));
        assert!(read("/frobnicate").unwrap_err().contains("/help lists"));
    }

    #[test]
    fn help_names_every_command() {
        for name in NAMES.iter().filter(|name| **name != "/quit" && **name != "/help") {
            assert!(HELP.contains(&format!("{name} ")), "{name}");
        }
    }
}
