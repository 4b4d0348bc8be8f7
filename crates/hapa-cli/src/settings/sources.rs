//! Where settings come from: the file, the environment, the flags.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};
use toml::{Spanned, Table};

use crate::error::{CliError, Result};
use crate::settings::layers::{Flags, Layers, Source, flatten};

/// Variables with HAPA's prefix that are no settings: `HAPA_CONFIG` names the file, `HAPA_ISA` is read by the kernels,
/// `HAPA_API_KEY` by commands that ask a server.
const NO_SETTINGS: [&str; 3] = ["HAPA_CONFIG", "HAPA_ISA", "HAPA_API_KEY"];
const PREFIX: &str = "HAPA_";

/// What the layers are made from.
#[derive(Debug, Clone, Default)]
pub(crate) struct Given {
    /// `--config`.
    pub(crate) config: Option<PathBuf>,
    /// The environment.
    pub(crate) variables: Vec<(OsString, OsString)>,
    /// Flags of the command.
    pub(crate) flags: Flags,
}

/// Merges the layers; also returns what should be warned of.
///
/// # Errors
/// [`CliError::Usage`] that names the place, for a file that cannot be read, an unknown key of it, or a value that does
/// not fit.
pub(crate) fn gather(given: Given) -> Result<(Layers, Vec<String>)> {
    let Given { config, variables, flags } = given;
    let mut layers = Layers::defaults()?;
    let variable = |name: &str| {
        let found = variables.iter().find(|(key, value)| key == name && !value.is_empty());
        found.map(|(_, value)| PathBuf::from(value))
    };
    if let Some(path) = find_file(config, variable) {
        put_file(&mut layers, &path)?;
    }
    let warnings = put_variables(&mut layers, &variables)?;
    for (key, value, flag) in flags.0 {
        layers.put(key, value, Source::Flag(flag))?;
    }
    Ok((layers, warnings))
}

/// The first file that there is; one that was named need not be there to be the one.
fn find_file(
    config: Option<PathBuf>,
    variable: impl Fn(&str) -> Option<PathBuf>,
) -> Option<PathBuf> {
    config.or_else(|| variable("HAPA_CONFIG")).or_else(|| {
        let below_home = || Some(variable("HOME")?.join(".config"));
        let of_user = variable("XDG_CONFIG_HOME").or_else(below_home);
        let places =
            [Some(PathBuf::from("hapa.toml")), of_user.map(|folder| folder.join("hapa/hapa.toml"))];
        places.into_iter().flatten().find(|path| path.is_file())
    })
}

fn put_file(layers: &mut Layers, path: &Path) -> Result<()> {
    let refuse = |problem: &dyn std::fmt::Display| {
        CliError::usage(format!("the settings file {} {problem}", path.display()))
    };
    let bytes = std::fs::read(path).map_err(|e| refuse(&format!("could not be read: {e}")))?;
    let text = String::from_utf8(bytes).map_err(|_| refuse(&"is not UTF-8 text"))?;
    let table: Table =
        toml::from_str(&text).map_err(|e| refuse(&format!("is not valid TOML:\n{e}")))?;
    let lines = Lines::of(&text);
    let mut values = Vec::new();
    flatten("", table, &mut |key, value| values.push((key, value)));
    for (key, value) in values {
        let source = Source::File { path: path.to_owned(), line: lines.line(&key) };
        layers.put(&key, value, source)?;
    }
    Ok(())
}

/// On which line of a file each key stands.
struct Lines(Vec<(String, usize)>);

impl Lines {
    fn of(text: &str) -> Self {
        let mut lines = Self(Vec::new());
        if let Ok(table) = DeTable::parse(text) {
            lines.walk("", table.get_ref(), text);
        }
        lines
    }

    fn walk(&mut self, above: &str, table: &DeTable<'_>, text: &str) {
        for (name, value) in table {
            let name_text: &str = name.get_ref();
            let key = if above.is_empty() {
                name_text.to_owned()
            } else {
                format!("{above}.{name_text}")
            };
            match value.get_ref() {
                DeValue::Table(table) => self.walk(&key, table, text),
                _ => self.0.push((key, line_of(name, text))),
            }
        }
    }

    fn line(&self, key: &str) -> usize {
        self.0.iter().find(|(known, _)| known == key).map_or(1, |(_, line)| *line)
    }
}

fn line_of<T>(spanned: &Spanned<T>, text: &str) -> usize {
    text.bytes().take(spanned.span().start).filter(|byte| *byte == b'\n').count() + 1
}

fn put_variables(layers: &mut Layers, variables: &[(OsString, OsString)]) -> Result<Vec<String>> {
    let keys: Vec<(String, String)> = layers
        .keys()
        .map(|key| {
            (format!("{PREFIX}{}", key.to_ascii_uppercase().replace('.', "_")), key.to_owned())
        })
        .collect();
    let mut warnings = Vec::new();
    for (name, value) in variables {
        let Some(name) = name.to_str().filter(|name| name.starts_with(PREFIX)) else { continue };
        let Some((_, key)) = keys.iter().find(|(variable, _)| variable == name) else {
            if !NO_SETTINGS.contains(&name) {
                let guess = name[PREFIX.len()..].to_ascii_lowercase();
                let known = keys.iter().map(|(variable, _)| variable.as_str());
                let near = known.min_by_key(|known| hapa_model::text::edit_distance(known, name));
                let near = near
                    .filter(|near| hapa_model::text::edit_distance(near, name) <= guess.len() / 2);
                let help = near.map_or(String::new(), |near| format!("; did you mean {near}?"));
                warnings.push(format!("the variable {name} is no setting and has no effect{help}"));
            }
            continue;
        };
        let source = Source::Variable(name.to_owned());
        let Some(text) = value.to_str() else {
            return Err(CliError::usage(format!("{source}: is not UTF-8 text")));
        };
        if let Some(value) = layers.read(key, text) {
            layers.put(key, value, source)?;
        }
    }
    Ok(warnings)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(variables: &[(&str, &str)]) -> Given {
        Given {
            config: None,
            variables: variables.iter().map(|(k, v)| (k.into(), v.into())).collect(),
            flags: Flags::default(),
        }
    }

    fn with_file(text: &str, mut given: Given) -> Result<(Layers, Vec<String>)> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("some.toml");
        std::fs::write(&path, text).unwrap();
        given.config = Some(path);
        gather(given)
    }

    fn refusal(outcome: Result<(Layers, Vec<String>)>) -> String {
        match outcome {
            Err(error) if error.exit_code() == 2 => error.to_string(),
            other => panic!("expected bad usage, got {other:?}"),
        }
    }

    #[test]
    fn each_layer_is_over_the_one_before() {
        let file = "model = 'a'\nlog = 'info'\n[engine]\nthreads = 3\nkv_memory = 1024\n[generate]\ntop_k = 5\n";
        let mut given = given(&[("HAPA_ENGINE_THREADS", "4"), ("HAPA_LOG", "debug")]);
        given.flags.set("log", Some("trace"), "--log");
        let (layers, warnings) = with_file(file, given).unwrap();
        assert!(warnings.is_empty());
        let settings = layers.settings().unwrap();
        assert_eq!(settings.model, "a");
        assert_eq!(settings.log, "trace");
        assert_eq!(settings.engine.threads, 4);
        assert_eq!(settings.engine.kv_memory.0.unwrap().0, 1024);
        assert_eq!(settings.generate.top_k, 5);
        assert_eq!(settings.generate.max_tokens, 512);
        let shown = layers.to_string();
        for line in [
            "some.toml:1",
            "threads = 4 # HAPA_ENGINE_THREADS",
            "log = \"trace\" # --log",
            "some.toml:5",
            "max_tokens = 512 # default",
        ] {
            assert!(shown.contains(line), "{line} is not in\n{shown}");
        }
    }

    #[test]
    fn what_is_shown_is_a_settings_file() {
        let (layers, _) = gather(given(&[
            ("HAPA_MODEL", "a \"quoted\" name"),
            ("HAPA_CACHE_TTL", "7d"),
            ("HAPA_ENGINE_KV_MEMORY", "1.5GB"),
            ("HAPA_GENERATE_TEMPERATURE", "1"),
        ]))
        .unwrap();
        let (again, _) = with_file(&layers.to_string(), given(&[])).unwrap();
        assert_eq!(again.settings().unwrap(), layers.settings().unwrap());
        assert_eq!(layers.settings().unwrap().model, "a \"quoted\" name");
    }

    #[test]
    fn mistakes_name_their_place() {
        let at = |text| refusal(with_file(text, given(&[])));
        let error = at("\n[engine]\nthread = 3\n");
        assert!(error.contains("some.toml:3") && error.contains("`engine.threads`?"), "{error}");
        let error = at("temperature = 0.5\n");
        assert!(error.contains("`generate.temperature`?"), "{error}");
        let error = at("model = 'a'\n\n[cache]\nmemory = 'lots'\n");
        assert!(
            error.contains("some.toml:4: `cache.memory`") && error.contains("64MiB"),
            "{error}"
        );
        let error = at("[server]\nport = 70000\n");
        assert!(error.contains("`server.port`"), "{error}");
        let error = at("[engine]\nthreads = 'two'\n");
        assert!(error.contains("`engine.threads`"), "{error}");
        let error = at("engine = 3\n");
        assert!(error.contains("some.toml:1") && error.contains("engine"), "{error}");
        let error = at("[engine\n");
        assert!(error.contains("not valid TOML") && error.contains("line 1"), "{error}");
        let error = refusal(gather(given(&[("HAPA_ENGINE_BACKEND", "gpu")])));
        assert!(error.contains("HAPA_ENGINE_BACKEND: `engine.backend`"), "{error}");
        assert!(error.contains("cpu or reference"), "{error}");
        let error = refusal(gather(given(&[("HAPA_OFFLINE", "perhaps")])));
        assert!(error.contains("HAPA_OFFLINE"), "{error}");
        let nowhere = Given { config: Some("no/such.toml".into()), ..Given::default() };
        assert!(refusal(gather(nowhere)).contains("no/such.toml"));
    }

    #[test]
    fn variables_that_are_no_settings_are_told() {
        let (_, warnings) =
            gather(given(&[("HAPA_MODLE", "x"), ("HAPA_ISA", "avx2"), ("OTHER", "x")])).unwrap();
        assert_eq!(warnings.len(), 1);
        assert!(
            warnings[0].contains("HAPA_MODLE") && warnings[0].contains("HAPA_MODEL?"),
            "{warnings:?}"
        );
    }

    #[test]
    fn yes_and_no_are_written_in_several_ways() {
        for (text, expected) in [("1", true), ("Yes", true), ("off", false), ("", false)] {
            let (layers, _) = gather(given(&[("HAPA_OFFLINE", text)])).unwrap();
            assert_eq!(layers.settings().unwrap().offline, expected, "{text}");
        }
    }

    /// `docs/configuration.md` has one row a setting, in order, with its variable and default.
    #[test]
    fn the_documented_table_is_the_code() {
        let page = include_str!("../../../../docs/configuration.md");
        let documented: Vec<Vec<&str>> = page
            .lines()
            .filter(|line| line.starts_with("| `"))
            .map(|line| line.split('|').skip(1).map(str::trim).collect())
            .collect();
        let (layers, _) = gather(Given::default()).unwrap();
        let shown = layers.to_string();
        let table: Table = toml::from_str(&shown).unwrap();
        let mut expected = Vec::new();
        flatten("", table, &mut |key, value| {
            let variable = format!("{PREFIX}{}", key.to_ascii_uppercase().replace('.', "_"));
            let value = match value {
                toml::Value::String(text) if text.is_empty() => "(empty)".to_owned(),
                toml::Value::String(text) => format!("`{text}`"),
                other => format!("`{other}`"),
            };
            expected.push([format!("`{key}`"), format!("`{variable}`"), value]);
        });
        let documented: Vec<[String; 3]> = documented
            .iter()
            .map(|row| [row[0].to_owned(), row[1].to_owned(), row[2].to_owned()])
            .collect();
        assert_eq!(documented, expected);
    }
}
