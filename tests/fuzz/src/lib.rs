//! Whoever may send bytes may lie: each parser that strangers reach, as a target that takes any bytes and panics when what was
//! made of them is wrong or takes more memory than its bound.
//!
//! Two runs use the same targets: a fixed number of cases made from the seeds by a fixed chance (`tests/it`), and libFuzzer
//! guided by coverage (`main.rs`, started by `cargo xtask fuzz`).
//! Deliberately absent: what needs a database or a model; the server's routes have `bad_input.rs`.

use galerne_gateway::fuzz;

mod money;
mod names;
mod planted;

pub mod mutate;

/// A parser, and what memory an input may take.
#[derive(Clone, Copy)]
pub struct Target {
    /// As its folder of seeds is called.
    pub name: &'static str,
    check: fn(&[u8]),
    /// Bytes that may be held at once for each byte of the input, checks included.
    memory_per_byte: u64,
    /// Cases of the fixed run.
    pub cases: usize,
    /// Pieces of inputs that chance would take long to find.
    pub words: &'static [&'static str],
}

/// Memory for an input without a byte: connections, buffers, the texts of refusals.
const MEMORY_MIN_BYTES: u64 = 256 * 1024;

const HTTP: &[&str] = &[
    "HTTP/1.1 200 OK\r\n",
    "HTTP/1.1 100 Continue\r\n\r\n",
    "HTTP/1.0 ",
    "content-length: ",
    "transfer-encoding: chunked\r\n",
    "connection: close\r\n",
    "content-type: text/event-stream\r\n",
    "retry-after: ",
    "\r\n",
    "\r\n\r\n",
    "0\r\n\r\n",
    ";",
    "18446744073709551616",
    "ffffffffffffffff",
    "204",
    "304",
    "101",
];
const EVENTS: &[&str] = &[
    "data: ",
    "data:",
    "\n\n",
    "\r\n\r\n",
    ": ",
    "event: ",
    "[DONE]",
    "{\"choices\":[{\"delta\":{\"content\":\"a\"}}]}",
    "\"usage\":{\"prompt_tokens\":1}",
    "\"usage\": null",
    "\"finish_reason\":\"stop\"",
    "\"arguments\":\"{\"",
    "\\\"",
    " :",
    ": \"",
    "\"reasoning_content\":\"r\"",
    "\"tool_calls\":[{\"function\":{\"arguments\":\"x\"}}]",
    "{\"error\":",
    "\"text\":\"t\"",
    "\"delta\":{",
];
const JSON: &[&str] = &[
    "\"model\":\"m\"",
    "\"messages\":[{\"role\":\"user\",\"content\":\"a\"}]",
    "\"prompt\":",
    "\"input\":",
    "\"inputs\":",
    "\"tokens\":[1]",
    "\"stream\":true",
    "\"stream_options\":{\"include_usage\":",
    "\"max_tokens\":",
    "\"max_completion_tokens\":",
    "\"n\":",
    "\"best_of\":",
    "\"tool_choice\":\"any\"",
    "\"prefix\":true",
    "\"role\":\"assistant\"",
    "\"service_tier\":",
    "\"random_seed\":",
    "\"seed\":",
    "\"encoding_format\":",
    "\"stop\":",
    "null",
    "true",
    "-1",
    "1e400",
    "4294967296",
    "9223372036854775808",
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "\"",
    "\\u0000",
    "\\ud800",
    "\u{e9}",
    "\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\"}}]",
    "\"instructions\":",
    "\"user\":",
    "\"response_format\":{\"type\":",
    "\"dimensions\":",
    "\"suffix\":",
    "\"echo\":true",
    "\"logprobs\":",
    "  ",
];
const USED: &[&str] = &[
    "\"prompt_tokens\":",
    "\"completion_tokens\":",
    "\"prompt_tokens_details\":{\"cached_tokens\":",
    "\"galerne\":{\"cpu_micros\":",
    "\"cached_tokens\":",
    "18446744073709551615",
    "-1",
    "1e3",
    "null",
    "{",
    "}",
    "\"energy_joules\":",
    ",",
];

/// Every target.
pub const TARGETS: &[Target] = &[
    Target { name: "chunked", check: fuzz::chunked, memory_per_byte: 64, cases: 12_000, words: HTTP },
    Target { name: "head", check: fuzz::head, memory_per_byte: 64, cases: 12_000, words: HTTP },
    Target { name: "reply", check: fuzz::reply, memory_per_byte: 64, cases: 10_000, words: HTTP },
    Target { name: "events", check: fuzz::events, memory_per_byte: 256, cases: 16_000, words: EVENTS },
    Target { name: "told", check: fuzz::told, memory_per_byte: 512, cases: 10_000, words: EVENTS },
    Target { name: "usage", check: fuzz::usage, memory_per_byte: 64, cases: 10_000, words: USED },
    Target { name: "requests", check: fuzz::requests, memory_per_byte: 512, cases: 24_000, words: JSON },
    Target {
        name: "address",
        check: fuzz::address,
        memory_per_byte: 64,
        cases: 4_000,
        words: &["http://", "https://", "@", "[::1]", ":80", "%0d%0a", "/"],
    },
    Target {
        name: "key_header",
        check: fuzz::key_header,
        memory_per_byte: 64,
        cases: 4_000,
        words: &["Bearer ", "galerne_", " ", "Basic "],
    },
    Target {
        name: "frames",
        check: fuzz::frames,
        memory_per_byte: 512,
        cases: 2_000,
        words: &["H{", "U{", "\"held_micros\":"],
    },
    Target {
        name: "names",
        check: names::names,
        memory_per_byte: 64,
        cases: 8_000,
        words: &["galerne_", "tenant_", "key_", "price_book_"],
    },
    Target {
        name: "prices",
        check: money::prices,
        memory_per_byte: 512,
        cases: 8_000,
        words: &[
            "\"default\":",
            "\"models\":[",
            "\"prompt\":",
            "\"cached\":",
            "\"completion\":",
            "9223372036854775807",
            "-1",
            "sha256:",
        ],
    },
    Target {
        name: "lines",
        check: names::lines,
        memory_per_byte: 512,
        cases: 4_000,
        words: &["{\"beat\"", "\"changes\"", "\"number\":1", "\"keys\":", "null"],
    },
];

/// A target with a mistake that chance alone does not find: a run that misses it is blind.
pub const PLANTED: Target =
    Target { name: "planted", check: planted::planted, memory_per_byte: 64, cases: 0, words: &[] };

/// The target of this name.
pub fn find(name: &str) -> Option<&'static Target> {
    TARGETS.iter().chain([&PLANTED]).find(|target| target.name == name)
}

impl Target {
    /// Its words as libFuzzer reads them.
    pub fn dictionary(&self) -> String {
        let escaped = |word: &str| word.bytes().map(|byte| format!("\\x{byte:02x}")).collect::<String>();
        let words: String = self.words.iter().map(|word| format!("\"{}\"\n", escaped(word))).collect();
        // An empty file is none to it.
        format!("# {}\n{words}", self.name)
    }

    /// Checks what is made of an input. Panics when it is wrong, or takes too much memory.
    pub fn check(&self, input: &[u8]) {
        let taken = allocation_counter::measure(|| (self.check)(input));
        let most = MEMORY_MIN_BYTES + self.memory_per_byte * input.len() as u64;
        assert!(taken.bytes_max <= most, "{} bytes for an input of {}, more than {most}", taken.bytes_max, input.len());
    }
}
