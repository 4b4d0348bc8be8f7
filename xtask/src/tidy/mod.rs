//! The house rules that compilers don't check. Each rule gives a list of breaches.

mod dependencies;
mod edges;
mod lexer;
mod metrics;
mod sources;

use anyhow::{Context, Result, bail};
use std::path::Path;

/// Applies every rule and lists every breach.
pub(crate) fn run() -> Result<()> {
    let files = files(&crate::root())?;
    let metadata = edges::Metadata::read()?;
    let mut breaches = Vec::new();
    breaches.extend(sources::check(&files));
    breaches.extend(metrics::check(&files));
    breaches.extend(edges::check(&metadata));
    breaches.extend(dependencies::check(&metadata, &files));
    breaches.extend(papers(&files));
    for breach in &breaches {
        eprintln!("tidy: {breach}");
    }
    if !breaches.is_empty() {
        bail!("{} breaches of the house rules", breaches.len());
    }
    eprintln!("tidy: {} files, no breach", files.len());
    Ok(())
}

/// A text file of the project.
#[derive(Debug)]
pub(crate) struct File {
    /// Path from the root, with `/`.
    pub(crate) path: String,
    pub(crate) text: String,
}

impl File {
    fn is_rust(&self) -> bool {
        has_extension(&self.path, "rs")
    }
}

fn has_extension(path: &str, extension: &str) -> bool {
    Path::new(path).extension().is_some_and(|found| found == extension)
}

/// Files that every project must have.
fn papers(files: &[File]) -> Vec<String> {
    ["README.md", "CHANGELOG.md", "LICENSE-MIT", "LICENSE-APACHE", "docs/architecture.md"]
        .into_iter()
        .filter(|name| !files.iter().any(|file| file.path == *name))
        .map(|name| format!("{name} is missing"))
        .collect()
}

/// All text files below the root, but for build output, tool folders and test fixtures.
fn files(root: &Path) -> Result<Vec<File>> {
    let mut files = Vec::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        let entries = std::fs::read_dir(&folder)
            .with_context(|| format!("could not list {}", folder.display()))?;
        for entry in entries {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if path.is_dir() {
                let skipped = matches!(&*name, "target" | "fixtures" | "snapshots" | "corpus");
                let hidden =
                    name.starts_with('.') && !matches!(&*name, ".ci" | ".cargo" | ".config");
                if !skipped && !hidden {
                    folders.push(path);
                }
            } else if is_text(&name) {
                files.push(read(root, &path)?);
            }
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

fn is_text(name: &str) -> bool {
    let extension = Path::new(name).extension().and_then(|extension| extension.to_str());
    match extension {
        Some(extension) => {
            matches!(
                extension,
                "rs" | "toml" | "md" | "json" | "yaml" | "yml" | "sh" | "html" | "js" | "py"
            )
        }
        None => matches!(name, "LICENSE-MIT" | "LICENSE-APACHE" | "run"),
    }
}

fn read(root: &Path, path: &Path) -> Result<File> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("could not read {}", path.display()))?;
    let relative = path.strip_prefix(root).unwrap_or(path);
    let path =
        relative.components().map(|part| part.as_os_str().to_string_lossy()).collect::<Vec<_>>();
    Ok(File { path: path.join("/"), text })
}
