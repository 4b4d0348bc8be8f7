//! Hit ratio by size and policy on four traces. Prints the table of `docs/cache.md` and draws its chart.
//!
//! ```console
//! $ cargo run --release -p hapa-cache --example hit_ratio -- docs/cache-hit-ratio.svg
//! ```

use hapa_cache::{MemoryCache, MemoryOptions, Policy};
use std::fmt::Write as _;
use std::io::Write as _;

/// Requests of each trace.
const REQUESTS: usize = 400_000;
/// Different keys of each trace, about.
const KEYS: u64 = 20_000;
const SIZES: [usize; 6] = [250, 500, 1_000, 2_000, 5_000, 10_000];
const POLICIES: [Policy; 2] = [Policy::S3Fifo, Policy::Lru];

type Trace = (&'static str, &'static str, Vec<u64>);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut out = std::io::stdout().lock();
    let mut chart = Chart::default();
    writeln!(out, "| trace | policy |{}", SIZES.map(|size| format!(" {size} |")).concat())?;
    writeln!(out, "| --- | --- |{}", " ---: |".repeat(SIZES.len()))?;
    for (number, (name, what, trace)) in traces().iter().enumerate() {
        for policy in POLICIES {
            let ratios = SIZES.map(|size| hit_ratio(trace, policy, size));
            let cells = ratios.map(|ratio| format!(" {:.1}% |", ratio * 100.0)).concat();
            writeln!(out, "| {name} | {} |{cells}", policy.name())?;
            chart.line(number, policy, &ratios);
        }
        chart.title(number, &format!("{name}: {what}"));
    }
    if let Some(path) = std::env::args().nth(1) {
        std::fs::write(path, chart.svg())?;
    }
    Ok(())
}

fn hit_ratio(trace: &[u64], policy: Policy, entries: usize) -> f64 {
    #[expect(clippy::expect_used, reason = "the options are this program's own")]
    let cache: MemoryCache<u64, ()> =
        MemoryOptions::new().policy(policy).max_entries(entries).build().expect("options");
    for key in trace {
        if cache.get(key).is_none() {
            cache.insert(*key, ());
        }
    }
    cache.stats().hit_ratio()
}

fn traces() -> [Trace; 4] {
    let mut random = Random(42);
    let zipf = Zipf::new(KEYS, 0.9);
    let popular = (0..REQUESTS).map(|_| zipf.draw(&mut random)).collect();
    // A CI job that asks for everything once, between people who ask for the popular.
    let mut fresh = KEYS;
    let scan = (0..REQUESTS)
        .map(|n| {
            if n % 40_000 < 20_000 {
                return zipf.draw(&mut random);
            }
            fresh += 1;
            fresh
        })
        .collect();
    // The same exercise, question by question, again and again.
    let looped = (0..REQUESTS as u64).map(|n| n % 4_000).collect();
    [
        ("Zipf", "popular questions, exponent 0.9", popular),
        ("scan", "popular questions and long runs of new ones", scan),
        ("loop", "4,000 questions in turn", looped),
        ("editor", "retries, undone edits, a few popular places", editor(&mut random)),
    ]
}

/// Requests of editors: mostly new text, often the last few again (a retry, an undo), sometimes a place that all share.
fn editor(random: &mut Random) -> Vec<u64> {
    let shared = Zipf::new(500, 1.1);
    let mut trace: Vec<u64> = Vec::with_capacity(REQUESTS);
    let mut fresh = 1_000_000;
    for _ in 0..REQUESTS {
        let next = match random.below(100) {
            0..40 => {
                fresh += 1;
                fresh
            }
            40..75 if !trace.is_empty() => {
                let reach = 1 + random.below(800);
                let back = 1 + random.below(reach) as usize;
                trace[trace.len().saturating_sub(back)]
            }
            _ => shared.draw(random),
        };
        trace.push(next);
    }
    trace
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// Keys from 0 with probability proportional to `1 / (key + 1)^exponent`.
struct Zipf(Vec<f64>);

impl Zipf {
    fn new(keys: u64, exponent: f64) -> Self {
        let mut sum = 0.0;
        let sums = (1..=keys).map(|rank| {
            sum += (rank as f64).powf(-exponent);
            sum
        });
        let mut sums: Vec<f64> = sums.collect();
        sums.iter_mut().for_each(|part| *part /= sum);
        Self(sums)
    }

    fn draw(&self, random: &mut Random) -> u64 {
        let at = (random.next() >> 11) as f64 / (1u64 << 53) as f64;
        self.0.partition_point(|sum| *sum < at) as u64
    }
}

/// Four small charts in one picture.
#[derive(Default)]
struct Chart {
    body: String,
}

const WIDTH: f64 = 300.0;
const HEIGHT: f64 = 160.0;

impl Chart {
    fn corner(number: usize) -> (f64, f64) {
        (60.0 + (number % 2) as f64 * (WIDTH + 80.0), 50.0 + (number / 2) as f64 * (HEIGHT + 90.0))
    }

    fn line(&mut self, number: usize, policy: Policy, ratios: &[f64]) {
        let (left, top) = Self::corner(number);
        let color = if policy == Policy::Lru { "#d55e00" } else { "#0072b2" };
        let step = WIDTH / (SIZES.len() - 1) as f64;
        let mut points = String::new();
        for (at, ratio) in ratios.iter().enumerate() {
            let (x, y) = (left + step * at as f64, top + HEIGHT * (1.0 - ratio));
            let _ = write!(points, "{x:.1},{y:.1} ");
            let _ = writeln!(self.body, "<circle cx='{x:.1}' cy='{y:.1}' r='3' fill='{color}'/>");
        }
        let _ = writeln!(
            self.body,
            "<polyline points='{points}' fill='none' stroke='{color}' stroke-width='2'/>"
        );
    }

    fn title(&mut self, number: usize, title: &str) {
        let (left, top) = Self::corner(number);
        let _ = writeln!(
            self.body,
            "<text x='{left}' y='{}' font-weight='bold'>{title}</text>",
            top - 10.0
        );
        for percent in [0, 25, 50, 75, 100] {
            let y = top + HEIGHT * (1.0 - f64::from(percent) / 100.0);
            let right = left + WIDTH;
            let _ = writeln!(
                self.body,
                "<line x1='{left}' y1='{y}' x2='{right}' y2='{y}' stroke='#ddd'/><text x='{}' y='{}' text-anchor='end'>{percent}%</text>",
                left - 6.0,
                y + 4.0
            );
        }
        for (at, size) in SIZES.iter().enumerate() {
            let x = left + WIDTH * at as f64 / (SIZES.len() - 1) as f64;
            let _ = writeln!(
                self.body,
                "<text x='{x:.0}' y='{}' text-anchor='middle'>{size}</text>",
                top + HEIGHT + 16.0
            );
        }
        let _ = writeln!(
            self.body,
            "<text x='{}' y='{}' text-anchor='middle' fill='#555'>entries</text>",
            left + WIDTH / 2.0,
            top + HEIGHT + 32.0
        );
    }

    fn svg(&self) -> String {
        format!(
            "<svg xmlns='http://www.w3.org/2000/svg' width='780' height='560' font-family='sans-serif' font-size='11'>\n\
             <rect width='780' height='560' fill='white'/>\n\
             <text x='60' y='20' font-size='13'>Hit ratio by entries: <tspan fill='#0072b2'>s3-fifo</tspan>, <tspan fill='#d55e00'>lru (exact)</tspan></text>\n{}</svg>\n",
            self.body
        )
    }
}
