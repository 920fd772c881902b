//! JSON without second meanings: RFC 8259 leaves to the parser which of two members of one name counts, and
//! two parsers that disagree are a way around a check (RFC 7515 section 5.2, RFC 7519 section 4). Here such a
//! text is no JSON.

use std::{collections::HashSet, fmt};

use serde::{
    Deserializer,
    de::{DeserializeSeed, Error, MapAccess, SeqAccess, Visitor},
};

/// Checks that `text` is one JSON object with no member named twice at any depth, nested at most `depth`
/// levels, and nothing after it.
pub(super) fn check_object(text: &[u8], depth: usize) -> Result<(), serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    deserializer.deserialize_map(Strict { depth })?;
    deserializer.end()
}

/// Visits a value to see that it is strict, and keeps nothing.
struct Strict {
    depth: usize,
}

impl Strict {
    fn inside<E: Error>(&self) -> Result<Self, E> {
        let depth = self
            .depth
            .checked_sub(1)
            .ok_or_else(|| E::custom("nested too deeply"))?;
        Ok(Self { depth })
    }
}

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON object")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<(), A::Error> {
        while elements.next_element_seed(self.inside()?)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        let mut seen = HashSet::new();
        while let Some(name) = members.next_key::<String>()? {
            members.next_value_seed(self.inside()?)?;
            if !seen.insert(name) {
                return Err(A::Error::custom("a member is named twice"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::check_object;

    #[test]
    fn one_object_with_distinct_names_is_strict() {
        let good = r#" {"a":1,"b":{"a":[1.5,"x",null,true,-1,{"a":0}]},"c":{}} "#;
        check_object(good.as_bytes(), 8).unwrap();
    }

    #[test]
    fn everything_with_a_second_reading_is_refused() {
        for bad in [
            r#"{"sub":"a","sub":"b"}"#,
            r#"{"sub":"a","\u0073ub":"b"}"#,
            r#"{"a":{"b":1,"b":1}}"#,
            r#"{"a":[{"b":1,"b":1}]}"#,
            r#"{"a":1}{"a":1}"#,
            r#"{"a":1},"#,
            r#"{"a":1,}"#,
            r#"{"a":NaN}"#,
            r#"{"a":1e400}"#,
            r#"{'a':1}"#,
            r#"{"a":01}"#,
            r#"{"a":"\ud800"}"#,
            "[]",
            "\"{}\"",
            "null",
            "",
            "\u{feff}{}",
        ] {
            assert!(check_object(bad.as_bytes(), 8).is_err(), "{bad}");
        }
        assert!(check_object(b"{\"a\":\"\xff\"}", 8).is_err(), "not UTF-8");
    }

    #[test]
    fn depth_is_bounded_by_us_and_not_by_the_stack() {
        assert!(check_object(br#"{"a":[[1]]}"#, 3).is_ok());
        assert!(check_object(br#"{"a":[[1]]}"#, 2).is_err());
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(10_000), "]".repeat(10_000));
        assert!(check_object(deep.as_bytes(), 8).is_err());
    }
}
