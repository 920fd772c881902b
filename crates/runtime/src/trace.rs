//! W3C Trace Context, level 1 (<https://www.w3.org/TR/trace-context-1/>): taken over when well formed, begun
//! anew when not. Nothing is decided by it; it only ties records together.

use std::fmt;

use testudo_model::{Entropy, random_bytes};

/// Length of a version-00 `traceparent`.
const TRACEPARENT_BYTES: usize = 55;
/// Most members of a `tracestate` (section 3.3.1.1).
const MAX_STATE_MEMBERS: usize = 32;
/// Longest `tracestate` passed on (section 3.3.1.5 asks for at least 512).
const MAX_STATE_BYTES: usize = 512;
/// The `sampled` bit, the one flag of level 1.
const SAMPLED: u8 = 1;

/// Where a request is in a distributed trace.
#[derive(Clone, PartialEq, Eq)]
pub struct TraceContext {
    trace_id: [u8; 16],
    span_id: [u8; 8],
    sampled: bool,
    state: Option<String>,
}

impl TraceContext {
    /// Takes over the caller's context, or begins a trace if there is none or it is malformed. A malformed
    /// `tracestate` is dropped alone (section 3.3.1). A request with several `traceparent` fields has none
    /// that could be believed: pass `None`.
    pub fn accept<'a>(
        traceparent: Option<&str>,
        tracestate: impl IntoIterator<Item = &'a str>,
        entropy: &dyn Entropy,
    ) -> Self {
        Self::received(traceparent, tracestate).unwrap_or_else(|| Self::begin(entropy))
    }

    /// The caller's context; `None` if there is none or it is malformed.
    pub fn received<'a>(
        traceparent: Option<&str>,
        tracestate: impl IntoIterator<Item = &'a str>,
    ) -> Option<Self> {
        let (trace_id, span_id, sampled) = traceparent.and_then(parse_traceparent)?;
        Some(Self {
            trace_id,
            span_id,
            sampled,
            state: parse_tracestate(tracestate),
        })
    }

    /// A new trace, sampled.
    pub fn begin(entropy: &dyn Entropy) -> Self {
        Self {
            trace_id: not_zero(random_bytes(entropy)),
            span_id: not_zero(random_bytes(entropy)),
            sampled: true,
            state: None,
        }
    }

    /// The context to send on: the same trace with a span of our own.
    #[must_use]
    pub fn child(&self, entropy: &dyn Entropy) -> Self {
        Self {
            span_id: not_zero(random_bytes(entropy)),
            ..self.clone()
        }
    }

    /// The trace id, 32 lower-case hex digits.
    pub fn trace_id(&self) -> String {
        hex(&self.trace_id)
    }

    /// The span id, 16 lower-case hex digits.
    pub fn span_id(&self) -> String {
        hex(&self.span_id)
    }

    /// Whether the caller records this trace.
    pub const fn is_sampled(&self) -> bool {
        self.sampled
    }

    /// The `traceparent` field value, version 00. No allocation: it is written for every request.
    pub fn traceparent(&self) -> [u8; TRACEPARENT_BYTES] {
        let flags = if self.sampled { SAMPLED } else { 0 };
        let mut value = *b"00-00000000000000000000000000000000-0000000000000000-00";
        let (_, after_version) = value.split_at_mut(3);
        let (trace_id, rest) = after_version.split_at_mut(33);
        let (span_id, sampled) = rest.split_at_mut(17);
        write_hex(trace_id, &self.trace_id);
        write_hex(span_id, &self.span_id);
        write_hex(sampled, &[flags]);
        value
    }

    /// The `tracestate` field value to pass on unchanged.
    pub fn tracestate(&self) -> Option<&str> {
        self.state.as_deref()
    }
}

impl fmt::Debug for TraceContext {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&String::from_utf8_lossy(&self.traceparent()))
    }
}

/// Section 3.2.2: `version "-" trace-id "-" parent-id "-" trace-flags`, lower-case hex. Higher versions may
/// append `-…`; of them the parts known here are used.
fn parse_traceparent(value: &str) -> Option<([u8; 16], [u8; 8], bool)> {
    if value.len() < TRACEPARENT_BYTES || value.len() > MAX_STATE_BYTES {
        return None;
    }
    let mut parts = value.splitn(5, '-');
    let [version] = parse_hex(parts.next()?)?;
    let trace_id: [u8; 16] = parse_hex(parts.next()?)?;
    let span_id: [u8; 8] = parse_hex(parts.next()?)?;
    let [flags] = parse_hex(parts.next()?)?;
    let has_more = parts.next().is_some();
    if version == 0xff || (version == 0 && has_more) || trace_id == [0; 16] || span_id == [0; 8] {
        return None;
    }
    Some((trace_id, span_id, flags & SAMPLED != 0))
}

/// Section 3.3.1: a list of `key=value`, at most 32, no key twice. Several fields are one list.
fn parse_tracestate<'a>(fields: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let mut keys: Vec<&str> = Vec::new();
    let mut state = String::new();
    for field in fields {
        if field.len() > MAX_STATE_BYTES {
            return None;
        }
        for member in field
            .split(',')
            .map(|member| member.trim_matches([' ', '\t']))
        {
            if member.is_empty() {
                continue;
            }
            let (key, value) = member.split_once('=')?;
            if !is_state_key(key) || !is_state_value(value) || keys.contains(&key) {
                return None;
            }
            keys.push(key);
            if !state.is_empty() {
                state.push(',');
            }
            state.push_str(member);
            if keys.len() > MAX_STATE_MEMBERS || state.len() > MAX_STATE_BYTES {
                return None;
            }
        }
    }
    (!state.is_empty()).then_some(state)
}

/// Section 3.3.1.3.1: `lcalpha 0*255(…)`, or `tenant@system` with at most 241 and 14 characters.
fn is_state_key(key: &str) -> bool {
    let rest_ok = |byte: u8| {
        byte.is_ascii_lowercase()
            || byte.is_ascii_digit()
            || matches!(byte, b'_' | b'-' | b'*' | b'/')
    };
    let part = |text: &str, digit_first: bool, limit: usize| {
        text.len() <= limit
            && text
                .bytes()
                .next()
                .is_some_and(|b| b.is_ascii_lowercase() || (digit_first && b.is_ascii_digit()))
            && text.bytes().all(rest_ok)
    };
    match key.split_once('@') {
        Some((tenant, system)) => part(tenant, true, 241) && part(system, false, 14),
        None => part(key, false, 256),
    }
}

/// Section 3.3.1.3.2: 1 to 256 printable ASCII characters but `,` and `=`, not ending in a space.
fn is_state_value(value: &str) -> bool {
    (1..=256).contains(&value.len())
        && value
            .bytes()
            .all(|byte| matches!(byte, b' '..=b'~') && !matches!(byte, b',' | b'='))
        && !value.ends_with(' ')
}

fn parse_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    if text.len() != N * 2 {
        return None;
    }
    let mut digits = text.bytes().map(|byte| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    });
    let mut bytes = [0; N];
    for byte in &mut bytes {
        *byte = (digits.next()?? << 4) | digits.next()??;
    }
    Some(bytes)
}

fn hex(bytes: &[u8]) -> String {
    let mut digits = vec![b'0'; bytes.len() * 2];
    write_hex(&mut digits, bytes);
    String::from_utf8(digits).unwrap_or_default()
}

/// Writes `bytes` as lower-case digits to the beginning of `digits`.
fn write_hex(digits: &mut [u8], bytes: &[u8]) {
    for (pair, byte) in digits.chunks_exact_mut(2).zip(bytes) {
        if let [high, low] = pair {
            (*high, *low) = (hex_digit(byte >> 4), hex_digit(byte & 15));
        }
    }
}

const fn hex_digit(nibble: u8) -> u8 {
    if nibble < 10 {
        b'0' + nibble
    } else {
        b'a' + nibble - 10
    }
}

/// All zeros means "invalid" in the specification.
fn not_zero<const N: usize>(mut bytes: [u8; N]) -> [u8; N] {
    if bytes == [0; N] {
        bytes = [1; N];
    }
    bytes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    struct Fixed(u8);
    impl Entropy for Fixed {
        fn fill(&self, bytes: &mut [u8]) {
            bytes.fill(self.0);
        }
    }

    fn accept(parent: &str, state: &[&str]) -> TraceContext {
        TraceContext::accept(Some(parent), state.iter().copied(), &Fixed(7))
    }

    fn text(context: &TraceContext) -> String {
        String::from_utf8(context.traceparent().to_vec()).unwrap()
    }

    #[test]
    fn a_well_formed_context_is_taken_over() {
        let context = accept(PARENT, &["rojo=00f067aa0ba902b7, congo=t61rcWkgMzE"]);
        assert_eq!(text(&context), PARENT);
        assert_eq!(context.trace_id(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(context.span_id(), "00f067aa0ba902b7");
        assert_eq!(
            context.tracestate(),
            Some("rojo=00f067aa0ba902b7,congo=t61rcWkgMzE")
        );
        let child = context.child(&Fixed(9));
        assert_eq!(
            text(&child),
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0909090909090909-01"
        );
        assert_eq!(child.tracestate(), context.tracestate());
    }

    #[test]
    fn a_malformed_traceparent_begins_a_new_trace_and_drops_the_state() {
        for bad in [
            "",
            "00",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1",
            "00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7a-01",
            " 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01.what",
        ] {
            let context = accept(bad, &["a=1"]);
            assert_eq!(context.trace_id(), "07".repeat(16), "{bad}");
            assert_eq!(context.tracestate(), None, "{bad}");
        }
    }

    #[test]
    fn a_later_version_is_read_as_far_as_it_is_known() {
        let context = accept(
            "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-03-what-ever",
            &[],
        );
        assert_eq!(text(&context), PARENT);
    }

    #[test]
    fn a_malformed_tracestate_is_dropped_alone() {
        let long = format!("a={}", "x".repeat(257));
        let many = (0..33)
            .map(|n| format!("k{n}=1"))
            .collect::<Vec<_>>()
            .join(",");
        for bad in [
            "a", "a=1,a=2", "A=1", "=1", "a=", "a=\u{7f}", "1a=1", "a@=1", &long, &many,
        ] {
            let context = accept(PARENT, &[bad]);
            assert_eq!(
                (context.tracestate(), text(&context).as_str()),
                (None, PARENT),
                "{bad}"
            );
        }
        assert_eq!(
            accept(PARENT, &["a=1,,", "1t@s=2"]).tracestate(),
            Some("a=1,1t@s=2")
        );
    }

    #[test]
    fn zeros_from_the_entropy_source_do_not_make_an_invalid_id() {
        let context = TraceContext::begin(&Fixed(0));
        assert!(parse_traceparent(&text(&context)).is_some());
    }

    proptest! {
        #[test]
        fn whatever_comes_in_what_goes_out_is_well_formed(parent in "[0-9a-f-]{0,70}|\\PC{0,70}", state in "\\PC{0,80}") {
            let context = accept(&parent, &[&state]);
            prop_assert!(parse_traceparent(&text(&context)).is_some());
            if let Some(state) = context.tracestate() {
                let again = parse_tracestate([state]);
                prop_assert_eq!(again.as_deref(), Some(state));
                prop_assert!(state.len() <= MAX_STATE_BYTES);
            }
        }
    }
}
