//! Plain error messages: translates messages of serde and its formats for the author of the input.

/// Rewrites a message of a JSON, TOML or query parser in plain words. A position,
/// `at line 1 column 2`, moves to the front.
pub fn explained(message: &str) -> String {
    let message = PREFIXES.iter().fold(message, |message, prefix| message.strip_prefix(prefix).unwrap_or(message));
    let (message, place) = match message.rsplit_once(" at line ") {
        Some((message, place)) if is_place(place) => {
            (message, format!("line {}: ", place.replace(" column", ", column")))
        }
        _ => (message, String::new()),
    };
    // A path such as `offers[0].price: ` may precede the message.
    let (path, message) = match message.split_once(": ") {
        Some((path, rest)) if is_path(path) => (format!("`{path}`: "), rest),
        _ => (String::new(), message),
    };
    format!("{place}{path}{}", plain(message.trim_end_matches(|c: char| c.is_whitespace())))
}

/// Prefixes that axum puts before the message.
const PREFIXES: [&str; 3] = [
    "Failed to deserialize the JSON body into the target type: ",
    "Failed to parse the request body as JSON: ",
    "Failed to deserialize query string: ",
];

fn is_place(place: &str) -> bool {
    place.split(" column ").all(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
}

fn is_path(path: &str) -> bool {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b"_[].".contains(&byte);
    !path.is_empty() && path.bytes().all(is_part)
}

fn plain(message: &str) -> String {
    let quoted = |rest: &str| rest.split_once('`').map(|(name, rest)| (name.to_owned(), rest.to_owned()));
    if let Some((name, rest)) = message.strip_prefix("unknown field `").and_then(quoted) {
        let known = rest.trim_start_matches(", expected ").trim_start_matches("one of ");
        return match known {
            "" | ", there are no fields" => format!("`{name}` is unknown"),
            known => format!("`{name}` is unknown; known are {known}"),
        };
    }
    if let Some((name, rest)) = message.strip_prefix("unknown variant `").and_then(quoted) {
        let known = rest.trim_start_matches(", expected ").trim_start_matches("one of ");
        return format!("`{name}` is none of what can stand there: {known}");
    }
    if let Some((name, _)) = message.strip_prefix("missing field `").and_then(quoted) {
        return format!("`{name}` is missing");
    }
    if let Some((name, _)) = message.strip_prefix("duplicate field `").and_then(quoted) {
        return format!("`{name}` is there twice");
    }
    for kind in ["invalid type: ", "invalid value: ", "invalid length "] {
        if let Some((found, expected)) = message.strip_prefix(kind).and_then(|rest| rest.rsplit_once(", expected ")) {
            let found = if kind == "invalid length " { format!("a list of {found}") } else { found_in_words(found) };
            return format!("{} is expected, not {found}", expected_in_words(expected));
        }
    }
    let said = SYNTAX.iter().find(|(theirs, _)| message.starts_with(theirs));
    said.map_or_else(|| message.to_owned(), |(_, ours)| (*ours).to_owned())
}

/// Translations of syntax errors: text that is not JSON, or not a number.
const SYNTAX: [(&str, &str); 17] = [
    ("invalid digit found in string", "that is no whole number"),
    ("EOF while parsing", "it ends too early"),
    ("expected value", "it is no JSON: a value is expected there"),
    ("expected ident", "it is no JSON: `true`, `false` or `null` is expected there"),
    ("expected `:`", "it is no JSON: `:` is expected there"),
    ("expected `,` or `]`", "it is no JSON: `,` or `]` is expected there"),
    ("expected `,` or `}`", "it is no JSON: `,` or `}` is expected there"),
    ("key must be a string", "it is no JSON: a key in quotation marks is expected there"),
    ("trailing comma", "it is no JSON: a comma is one too many there"),
    ("trailing characters", "something follows its end"),
    ("control character", "it is no JSON: a control character in a text must be written as an escape"),
    ("invalid escape", "it is no JSON: there is no such escape"),
    ("invalid unicode code point", "a text in it is not UTF-8"),
    ("lone leading surrogate", "it is no JSON: half a surrogate pair is no character"),
    ("invalid number", "it is no JSON: that is no number"),
    ("number out of range", "a number in it is too large"),
    ("recursion limit exceeded", "it is nested too deeply"),
];

fn found_in_words(found: &str) -> String {
    let value = |kind: &str| found.strip_prefix(kind).and_then(|rest| rest.strip_suffix('`')).map(str::to_owned);
    if let Some(number) = value("integer `").or_else(|| value("floating point `")) {
        return format!("the number {number}");
    }
    if let Some(boolean) = value("boolean `") {
        return boolean;
    }
    match found {
        "null" | "unit value" | "Option value" => "null".to_owned(),
        "map" => "an object".to_owned(),
        "sequence" => "a list".to_owned(),
        found => found.strip_prefix("string ").map_or_else(|| found.to_owned(), |text| format!("the text {text}")),
    }
}

fn expected_in_words(expected: &str) -> String {
    let whole = |bits: u32| format!("a whole number from 0 to 2^{bits} - 1");
    match expected {
        "u8" => whole(8),
        "u16" => whole(16),
        "u32" => whole(32),
        "u64" | "usize" => whole(64),
        "i8" | "i16" | "i32" | "i64" => "a whole number".to_owned(),
        "f32" | "f64" => "a number".to_owned(),
        "a boolean" => "true or false".to_owned(),
        "a string" | "a borrowed string" | "string" => "a text".to_owned(),
        "a sequence" => "a list".to_owned(),
        "a map" => "an object".to_owned(),
        expected => match expected.strip_prefix("struct ") {
            // Names of Rust types mean nothing to the author of the input.
            Some(_) => "an object".to_owned(),
            None if expected.starts_with("a tuple") || expected.starts_with("an array") => "a longer list".to_owned(),
            None => expected.to_owned(),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)]
    struct Order {
        gas: u64,
        name: String,
        #[serde(default)]
        kind: Kind,
        #[serde(default)]
        list: Vec<u8>,
        #[serde(default)]
        map: BTreeMap<String, bool>,
        #[serde(default)]
        pair: (u8, u8),
        #[serde(default)]
        inner: Inner,
    }

    #[derive(Debug, Default, Deserialize)]
    #[serde(rename_all = "snake_case")]
    enum Kind {
        #[default]
        One,
        Two,
    }

    #[derive(Debug, Default, Deserialize)]
    struct Inner {}

    fn said(json: &[u8]) -> String {
        explained(&serde_json::from_slice::<Order>(json).unwrap_err().to_string())
    }

    #[test]
    fn what_is_wrong_is_said_in_plain_words() {
        for (json, words) in [
            (r#"{"gas": 1}"#, "line 1, column 10: `name` is missing"),
            (r#"{"gas": 1, "gas": 2}"#, "line 1, column 16: `gas` is there twice"),
            (
                r#"{"gas": "x"}"#,
                r#"line 1, column 11: a whole number from 0 to 2^64 - 1 is expected, not the text "x""#,
            ),
            (r#"{"gas": -1}"#, "line 1, column 10: a whole number from 0 to 2^64 - 1 is expected, not the number -1"),
            (r#"{"gas": 1.5}"#, "line 1, column 11: a whole number from 0 to 2^64 - 1 is expected, not the number 1.5"),
            (r#"{"name": null}"#, "line 1, column 13: a text is expected, not null"),
            (r#"{"name": [1]}"#, "line 1, column 9: a text is expected, not a list"),
            (r#"{"list": {}}"#, "line 1, column 9: a list is expected, not an object"),
            (r#"{"map": {"a": 1}}"#, "line 1, column 15: true or false is expected, not the number 1"),
            (r#"{"inner": 5}"#, "line 1, column 11: an object is expected, not the number 5"),
            (r#"{"kind": "three"}"#, "line 1, column 16: `three` is none of what can stand there: `one` or `two`"),
            ("[1]", "line 1, column 3: an object is expected, not a list of 1"),
            ("{", "line 1, column 1: it ends too early"),
            ("{} {}", "line 1, column 2: `gas` is missing"),
            ("", "line 1, column 0: it ends too early"),
            ("{'gas': 1}", "line 1, column 2: it is no JSON: a key in quotation marks is expected there"),
            ("nonsense", "line 1, column 2: it is no JSON: `true`, `false` or `null` is expected there"),
        ] {
            assert_eq!(said(json.as_bytes()), words, "{json}");
        }
        let unknown = said(br#"{"gass": 1}"#);
        assert!(unknown.starts_with("line 1, column 7: `gass` is unknown; known are `gas`, `name`"), "{unknown}");
    }

    #[test]
    fn no_message_has_a_word_that_only_programmers_know() {
        let texts = [
            "",
            "{",
            "[",
            "\"",
            "{\"",
            "{\"a",
            "{\"a\"",
            "{\"a\":",
            "{\"gas\":1,",
            "[1",
            "[1,",
            "tru",
            "nul",
            "1e999",
            "-",
            "01",
            "\"\\x\"",
            "\"\\ud800\"",
            "\"\n\"",
            "{\"gas\":tru",
            "{1:2}",
            "{\"gas\":{}}",
            "{\"name\":1}",
            "{\"pair\":[1]}",
            "{\"list\":[256]}",
            "5",
            "null",
            "\"a\"",
            "true",
            "[]",
        ];
        for text in texts {
            let said = said(text.as_bytes());
            for word in ["struct", "EOF", "u64", "u8", "ident", "variant", "field", "invalid type", "sequence", "tuple"]
            {
                assert!(!said.contains(word), "{text}: {said}");
            }
        }
    }

    #[test]
    fn the_path_and_the_words_of_the_door_are_told_apart() {
        let said = "Failed to deserialize the JSON body into the target type: offers[0].price: missing field `at` at line 3 column 9";
        assert_eq!(explained(said), "line 3, column 9: `offers[0].price`: `at` is missing");
        let said = "Failed to deserialize query string: limit: invalid digit found in string";
        assert_eq!(explained(said), "`limit`: that is no whole number");
        assert_eq!(explained("whatever else: is left"), "whatever else: is left");
    }
}
