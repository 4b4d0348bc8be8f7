//! The README's first command, in release, and the Python that it prints, run for real.

use crate::tools::{cargo, output, show};
use anyhow::{Context, Result, bail, ensure};
use std::io::Write;
use std::process::{Command, Stdio};

/// Tries every function of two arguments that the program defines on pairs of sorted lists.
const JUDGE: &str = r#"
import ast, inspect, sys
source = sys.stdin.read()
tree = ast.parse(source)
# Only definitions and imports: examples that the model appends are not run.
keep = (ast.FunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom)
tree.body = [node for node in tree.body if isinstance(node, keep)]
space = {"__name__": "generated"}
exec(compile(tree, "generated.py", "exec"), space)
cases = [([], []), ([1], []), ([], [2]), ([1, 3, 5], [2, 4, 6]), ([1, 1, 2], [1, 3]), ([-2, 0], [-3, 7, 9])]
def merges(function):
    try:
        return all(list(function(list(a), list(b))) == sorted(a + b) for a, b in cases)
    except Exception as error:
        print(f"{function.__name__}: {error!r}", file=sys.stderr)
        return False
functions = [f for f in space.values() if inspect.isfunction(f)]
for function in functions:
    if len(inspect.signature(function).parameters) == 2 and merges(function):
        print(function.__name__)
        break
else:
    sys.exit(f"none of {[f.__name__ for f in functions]} merges two sorted lists")
"#;

/// Builds the release binary, asks it for a function, and runs the function.
pub(crate) fn run() -> Result<()> {
    let command = cargo(&[
        "run",
        "--release",
        "--",
        "generate",
        "write a function that merges two sorted lists",
    ]);
    eprintln!("\n==> smoke: {}", show(&command));
    let code = output(command)?;
    eprintln!("----\n{}\n----", code.trim_end());
    ensure!(!code.contains("```"), "standard output holds a Markdown fence, not plain code");

    let mut judge = Command::new("python3")
        .args(["-I", "-c", JUDGE])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("could not start python3 to run the generated code")?;
    if let Some(mut input) = judge.stdin.take() {
        input.write_all(code.as_bytes()).context("could not hand the code to python3")?;
    }
    let verdict = judge.wait_with_output().context("python3 did not finish")?;
    if !verdict.status.success() {
        bail!("the generated code does not merge two sorted lists");
    }
    eprintln!("smoke: `{}` merges", String::from_utf8_lossy(&verdict.stdout).trim());
    Ok(())
}
