//! The program in what a model wrote.

use super::Problem;

/// Where a continuation of a function has left it, after Chen et al. (2021): these begin something else.
pub const STOPS: [&str; 5] = ["\nclass ", "\ndef ", "\n#", "\nif ", "\nprint"];

/// The program to be tested, when the model went on from the prompt: prompt and continuation, up to where the function
/// ends.
pub fn continued(problem: &Problem, text: &str) -> String {
    let end = STOPS.iter().filter_map(|stop| text.find(stop)).min().unwrap_or(text.len());
    format!("{}{}\n", problem.prompt, &text[..end])
}

/// The program to be tested, when the model answered a question: its first fenced block of code, else all of it. The
/// prompt goes ahead of code that does not define the function, and its imports ahead of code that does.
pub fn answered(problem: &Problem, text: &str) -> String {
    let code = fenced(text).unwrap_or(text);
    let definition = format!("def {}", problem.entry_point);
    if code.contains(&definition) {
        // Helpers that the prompt defines ahead of the function may be missing in the answer.
        let head = problem.prompt.split(&definition).next().unwrap_or_default();
        format!("{head}\n{code}\n")
    } else {
        format!("{}{code}\n", problem.prompt)
    }
}

/// The inside of the first block between fences; a block that was cut off ends with the text.
fn fenced(text: &str) -> Option<&str> {
    let (_, rest) = text.split_once("```")?;
    let (_, code) = rest.split_once('\n')?;
    Some(code.split_once("```").map_or(code, |(code, _)| code))
}

/// The whole test: the program, the problem's test, and the call that runs it.
pub fn test_program(problem: &Problem, program: &str) -> String {
    format!("{program}\n{}\ncheck({})\n", problem.test, problem.entry_point)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem() -> Problem {
        Problem {
            task_id: "HumanEval/0".to_owned(),
            prompt: "from typing import List\n\ndef add(a, b):\n    \"\"\"Sum.\"\"\"\n".to_owned(),
            entry_point: "add".to_owned(),
            canonical_solution: "    return a + b\n".to_owned(),
            test: "def check(f):\n    assert f(1, 2) == 3\n".to_owned(),
        }
    }

    #[test]
    fn a_continuation_ends_with_its_function() {
        let text = "    return a + b\n\ndef other():\n    pass\n";
        let program = continued(&problem(), text);
        assert!(program.ends_with("\"\"\"Sum.\"\"\"\n    return a + b\n\n"), "{program}");
        assert!(continued(&problem(), "    x = 1\n    # note\n    return x").contains("return x"));
    }

    #[test]
    fn code_is_found_in_an_answer() {
        let whole = "Sure:\n```python\ndef add(a, b):\n    return a + b\n```\nDone.";
        let program = answered(&problem(), whole);
        assert_eq!(program, "from typing import List\n\n\ndef add(a, b):\n    return a + b\n\n");
        let body = answered(&problem(), "    return a + b");
        assert!(body.starts_with("from typing") && body.contains("Sum.\"\"\"\n    return a + b"));
        let cut = answered(&problem(), "```python\ndef add(a, b):\n    return a");
        assert!(cut.ends_with("    return a\n"), "{cut}");
    }
}
