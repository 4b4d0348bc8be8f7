//! The sequence of prompts of a run: request number n always asks the same, whichever connection sends it.

use std::path::PathBuf;

use bytes::Bytes;
use rand::Rng;

use super::{Ask, Prompt, Synthetic, file, synthetic};
use crate::error::LoadError;
use crate::humaneval::Problem;
use crate::target::Target;

/// Where prompts come from.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum WorkloadSource {
    /// One prompt, again and again.
    One(Prompt),
    /// Problems of HumanEval, asked as they stand.
    HumanEval(Vec<Problem>),
    /// A file of JSON lines.
    File(PathBuf),
    /// Synthetic text.
    Synthetic(Synthetic),
    /// Prompts made elsewhere.
    Prompts(Vec<Prompt>),
}

/// How requests resemble each other.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Mix {
    /// Share of requests, 0 to 1, that repeat an earlier one word for word. With `None` a file or HumanEval is gone
    /// through in order and begins anew at its end; with a share, all others differ from everything before.
    pub repeats: Option<f64>,
    /// Share of synthetic prompts, 0 to 1, that begin with one of the shared prefixes.
    pub shared_prefixes: f64,
    /// How many different prefixes there are.
    pub prefixes: u32,
    /// Fixes every choice.
    pub seed: u64,
}

impl Default for Mix {
    fn default() -> Self {
        Self { repeats: None, shared_prefixes: 0.0, prefixes: 4, seed: 1 }
    }
}

/// Prompts by number.
#[derive(Debug, Clone)]
pub struct Workload {
    source: Source,
    mix: Mix,
    label: String,
    ignore_end: bool,
}

#[derive(Debug, Clone)]
enum Source {
    Fixed(Vec<Prompt>),
    Synthetic { lengths: Synthetic, prefixes: Vec<String> },
}

impl Workload {
    /// Reads the source and checks the mix. `max_tokens` is for prompts that state no length of their own.
    pub fn new(source: WorkloadSource, mix: Mix, max_tokens: u32) -> Result<Self, LoadError> {
        for (option, share) in
            [("repeats", mix.repeats.unwrap_or(0.0)), ("shared-prefixes", mix.shared_prefixes)]
        {
            if !(0.0..=1.0).contains(&share) {
                return Err(LoadError::option(option, format!("{share} is no share of 0 to 1")));
            }
        }
        let fixed = !matches!(source, WorkloadSource::Synthetic(_));
        if fixed && mix.shared_prefixes > 0.0 {
            return Err(LoadError::option(
                "shared-prefixes",
                "only synthetic prompts can share prefixes",
            ));
        }
        let (source, label) = match source {
            WorkloadSource::One(prompt) => (Source::Fixed(vec![prompt]), "one prompt".to_owned()),
            WorkloadSource::HumanEval(problems) => {
                let label = format!("HumanEval, {} problems", problems.len());
                let prompts = problems.into_iter();
                let prompts = prompts.map(|p| Prompt::new(Ask::Text(p.prompt), max_tokens));
                (Source::Fixed(prompts.collect()), label)
            }
            WorkloadSource::File(path) => {
                let prompts = file::read(&path, max_tokens)?;
                let label = format!("{}, {} prompts", path.display(), prompts.len());
                (Source::Fixed(prompts), label)
            }
            WorkloadSource::Prompts(prompts) => {
                let label = format!("{} prompts", prompts.len());
                (Source::Fixed(prompts), label)
            }
            WorkloadSource::Synthetic(lengths) => {
                if lengths.input_tokens.0 == 0 || lengths.output_tokens.0 == 0 {
                    return Err(LoadError::option("synthetic", "lengths begin at 1"));
                }
                let longest = lengths.input_tokens.0.max(lengths.input_tokens.1);
                let prefixes = (0..u64::from(mix.prefixes.max(1)))
                    .map(|number| {
                        let mut text = String::new();
                        let mut random = synthetic::random(mix.seed, 2, number);
                        synthetic::words(&mut random, longest, &mut text);
                        text
                    })
                    .collect();
                let (input, output) = (lengths.input_tokens, lengths.output_tokens);
                let length = |(least, most)| match least == most {
                    true => format!("{least}"),
                    false => format!("{least} to {most}"),
                };
                let label =
                    format!("synthetic, {} tokens in, {} out", length(input), length(output));
                (Source::Synthetic { lengths, prefixes }, label)
            }
        };
        if matches!(&source, Source::Fixed(prompts) if prompts.is_empty()) {
            return Err(LoadError::option("prompts", "there is none"));
        }
        Ok(Self { source, mix, label, ignore_end: false })
    }

    /// Asks servers to go on to the last token, where they can.
    pub fn ignore_end(&mut self, ignore: bool) {
        self.ignore_end = ignore;
        if let Source::Fixed(prompts) = &mut self.source {
            prompts.iter_mut().for_each(|prompt| prompt.ignore_end = ignore);
        }
    }

    /// What it is, for reports.
    pub fn label(&self) -> String {
        let mut label = self.label.clone();
        if let Some(share) = self.mix.repeats {
            label.push_str(&format!(", {:.0}% repeats", share * 100.0));
        }
        if self.mix.shared_prefixes > 0.0 {
            label.push_str(&format!(", {:.0}% shared prefixes", self.mix.shared_prefixes * 100.0));
        }
        label
    }

    /// The prompt of a request, counted from 0.
    pub fn prompt(&self, request: u64) -> Prompt {
        let number = self.original(request);
        match &self.source {
            Source::Fixed(prompts) => {
                let count = prompts.len() as u64;
                let mut prompt = prompts[(number % count) as usize].clone();
                if number >= count {
                    prompt.ask = prompt.ask.variant(number / count);
                }
                prompt
            }
            Source::Synthetic { lengths, prefixes } => {
                let mut random = synthetic::random(self.mix.seed, 3, number);
                let shares = random.random_bool(self.mix.shared_prefixes);
                let prefix =
                    shares.then(|| prefixes[random.random_range(0..prefixes.len())].as_str());
                let mut prompt = lengths.prompt(self.mix.seed, number, prefix);
                prompt.ignore_end = self.ignore_end;
                prompt
            }
        }
    }

    /// The number of the first request that asks what `request` asks: itself, unless it repeats an earlier one.
    pub fn original(&self, request: u64) -> u64 {
        let Some(share) = self.mix.repeats else {
            return match &self.source {
                Source::Fixed(prompts) => request % prompts.len() as u64,
                Source::Synthetic { .. } => request,
            };
        };
        let mut number = request;
        while number > 0 {
            let mut random = synthetic::random(self.mix.seed, 4, number);
            if !random.random_bool(share) {
                break;
            }
            number = random.random_range(0..number);
        }
        number
    }

    /// Bodies made ahead of the run, where requests come from a fixed list; making them costs nothing while it runs.
    pub(crate) fn bodies(&self, target: &Target) -> Bodies {
        let made = match &self.source {
            Source::Fixed(prompts) => prompts.iter().map(|p| target.body(p).into()).collect(),
            Source::Synthetic { .. } => Vec::new(),
        };
        Bodies { made }
    }
}

/// The bodies of a fixed list for one target.
#[derive(Debug)]
pub(crate) struct Bodies {
    made: Vec<Bytes>,
}

impl Bodies {
    pub(crate) fn body(&self, workload: &Workload, target: &Target, request: u64) -> Bytes {
        if let Some(body) = self.made.get(workload.original(request) as usize) {
            return body.clone();
        }
        target.body(&workload.prompt(request)).into()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn synthetic(mix: Mix) -> Workload {
        let lengths = Synthetic { input_tokens: (20, 40), output_tokens: (5, 9) };
        Workload::new(WorkloadSource::Synthetic(lengths), mix, 16).unwrap()
    }

    fn text(prompt: &Prompt) -> String {
        prompt.ask.flat()
    }

    #[test]
    fn a_seed_fixes_every_prompt() {
        let mix = Mix { repeats: Some(0.3), shared_prefixes: 0.5, ..Mix::default() };
        let (a, b) = (synthetic(mix), synthetic(mix));
        let other = synthetic(Mix { seed: 2, ..mix });
        assert!((0..50).all(|n| a.prompt(n) == b.prompt(n)));
        assert!((0..50).any(|n| a.prompt(n) != other.prompt(n)));
    }

    #[test]
    fn lengths_are_as_asked() {
        let workload = synthetic(Mix { shared_prefixes: 0.5, ..Mix::default() });
        for number in 0..200 {
            let prompt = workload.prompt(number);
            let length = text(&prompt).split(' ').count();
            assert!((20..=40).contains(&length), "{length}");
            assert!((5..=9).contains(&prompt.max_tokens));
        }
    }

    #[test]
    fn the_share_of_repeats_is_as_asked() {
        let workload = synthetic(Mix { repeats: Some(0.4), ..Mix::default() });
        let mut seen = HashSet::new();
        let repeats = (0..2000).filter(|n| !seen.insert(text(&workload.prompt(*n)))).count();
        assert!((720..=880).contains(&repeats), "{repeats} of 2000");
    }

    #[test]
    fn shared_prefixes_are_shared() {
        let workload = synthetic(Mix { shared_prefixes: 1.0, prefixes: 2, ..Mix::default() });
        let begin = |n| text(&workload.prompt(n)).split(' ').take(12).collect::<Vec<_>>().join(" ");
        let begins: HashSet<String> = (0..40).map(begin).collect();
        assert_eq!(begins.len(), 2);
        let whole: HashSet<String> = (0..40).map(|n| text(&workload.prompt(n))).collect();
        assert_eq!(whole.len(), 40);
    }

    #[test]
    fn a_list_cycles_or_varies() {
        let prompts =
            vec![Prompt::new(Ask::Text("a".into()), 4), Prompt::new(Ask::Text("b".into()), 4)];
        let make = |repeats| {
            let mix = Mix { repeats, ..Mix::default() };
            Workload::new(WorkloadSource::Prompts(prompts.clone()), mix, 4).unwrap()
        };
        let texts =
            |workload: &Workload| (0..4).map(|n| text(&workload.prompt(n))).collect::<Vec<_>>();
        assert_eq!(texts(&make(None)), ["a", "b", "a", "b"]);
        assert_eq!(texts(&make(Some(0.0))), ["a", "b", "# variant 1\na", "# variant 1\nb"]);
        assert_eq!(texts(&make(Some(1.0))), ["a", "a", "a", "a"]);
    }

    #[test]
    fn nonsense_is_refused() {
        let source = || WorkloadSource::One(Prompt::new(Ask::Text("a".into()), 4));
        let error = |mix| Workload::new(source(), mix, 4).unwrap_err().to_string();
        assert!(error(Mix { repeats: Some(1.5), ..Mix::default() }).contains("repeats"));
        assert!(error(Mix { shared_prefixes: 0.5, ..Mix::default() }).contains("synthetic"));
        assert!(Workload::new(WorkloadSource::Prompts(vec![]), Mix::default(), 4).is_err());
    }
}
