//! Pairs of cameras as one line of text: `POSSIBLE_CAMERA_OVERLAPS`.

/// Reads pairs of cameras, as indices into `known`, in one of two forms: as a Python (or JSON) list
/// of tuples, `[("c09", "c12"), ("c12", "c13")]`, or short, `c09-c12,c12-c13`. A pair that is named
/// twice, either way round, counts once. Nothing, `[]` or `()`: no pairs.
///
/// # Errors
/// In words: what of the text is no pair, or which camera is not known.
pub(super) fn parse_pairs(text: &str, known: &[&str]) -> Result<Vec<(usize, usize)>, String> {
    let text = text.trim();
    let named = if text.starts_with(['[', '(']) {
        long_form(text)?
    } else {
        short_form(text, known)?
    };
    let mut pairs: Vec<(usize, usize)> = Vec::new();
    for (first, second) in named {
        let (a, b) = (index(&first, known)?, index(&second, known)?);
        if a == b {
            return Err(format!("{first} cannot be paired with itself"));
        }
        if !pairs.contains(&(a, b)) && !pairs.contains(&(b, a)) {
            pairs.push((a, b));
        }
    }
    Ok(pairs)
}

fn index(id: &str, known: &[&str]) -> Result<usize, String> {
    let found = known.iter().position(|camera| *camera == id);
    found.ok_or_else(|| {
        format!(
            "there is no camera {id}; there are {}",
            known
                .iter()
                .take(20)
                .copied()
                .collect::<Vec<_>>()
                .join(", ")
        )
    })
}

/// `a-b,c-d`. As IDs may have hyphens themselves, the one between two known cameras counts.
fn short_form(text: &str, known: &[&str]) -> Result<Vec<(String, String)>, String> {
    let mut pairs = Vec::new();
    for pair in text.split(',').map(str::trim) {
        if pair.is_empty() {
            continue;
        }
        let splits = pair.match_indices('-');
        let mut splits = splits.map(|(at, _)| (pair[..at].trim(), pair[at + 1..].trim()));
        let both = |(a, b): &(&str, &str)| known.contains(a) && known.contains(b);
        let first = splits.clone().next();
        let Some((a, b)) = splits.find(both).or(first) else {
            return Err(format!("`{pair}` is no pair of cameras such as c09-c12"));
        };
        pairs.push((a.to_string(), b.to_string()));
    }
    Ok(pairs)
}

/// A Python list or tuple of lists or tuples of two strings.
fn long_form(text: &str) -> Result<Vec<(String, String)>, String> {
    let mut rest = text;
    let end = open(&mut rest)?;
    let mut pairs = Vec::new();
    while !take(&mut rest, end) {
        let close = open(&mut rest)?;
        let first = quoted(&mut rest)?;
        comma(&mut rest, "between two cameras")?;
        let second = quoted(&mut rest)?;
        take(&mut rest, ',');
        if !take(&mut rest, close) {
            return Err(format!("a pair must end with `{close}`, {}", found(rest)));
        }
        pairs.push((first, second));
        if !rest.trim_start().starts_with(end) {
            comma(&mut rest, "between pairs")?;
        }
    }
    if !rest.trim().is_empty() {
        return Err(format!("the list must end the text, {}", found(rest)));
    }
    Ok(pairs)
}

/// Takes an opening bracket; returns the one that closes it.
fn open(rest: &mut &str) -> Result<char, String> {
    for (opening, closing) in [('[', ']'), ('(', ')')] {
        if take(rest, opening) {
            return Ok(closing);
        }
    }
    Err(format!("there must be `(` or `[`, {}", found(rest)))
}

fn comma(rest: &mut &str, place: &str) -> Result<(), String> {
    if take(rest, ',') {
        return Ok(());
    }
    Err(format!("there must be a comma {place}, {}", found(rest)))
}

fn quoted(rest: &mut &str) -> Result<String, String> {
    for quote in ['"', '\''] {
        if take(rest, quote) {
            let Some((id, after)) = rest.split_once(quote) else {
                return Err(format!("{quote} is not closed"));
            };
            *rest = after;
            return Ok(id.to_string());
        }
    }
    Err(format!("a camera must be in quotes, {}", found(rest)))
}

fn take(rest: &mut &str, wanted: char) -> bool {
    let Some(after) = rest.trim_start().strip_prefix(wanted) else {
        return false;
    };
    *rest = after;
    true
}

fn found(rest: &str) -> String {
    match rest.trim_start().chars().next() {
        Some(c) => format!("not `{c}`"),
        None => "not the text's end".to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KNOWN: [&str; 5] = ["c09", "c12", "c13", "c16", "hall-2"];

    #[test]
    fn both_forms_say_the_same() {
        let expected = Ok(vec![(0, 1), (1, 2), (2, 3)]);
        for text in [
            r#"[("c09", "c12"), ("c12", "c13"), ("c13", "c16")]"#,
            "[('c09','c12'),('c12','c13'),('c13','c16'),]",
            r#" [["c09", "c12"], ["c12", "c13"], ["c13", "c16"]] "#,
            r#"(("c09", "c12",), ("c12", "c13"), ("c13", "c16"))"#,
            "c09-c12,c12-c13,c13-c16",
            " c09 - c12 , c12-c13, c13-c16, ",
            "c09-c12,c12-c13,c12-c09,c13-c16,c09-c12",
        ] {
            assert_eq!(parse_pairs(text, &KNOWN), expected, "{text}");
        }
        for nothing in ["", "[]", "( )", " "] {
            assert_eq!(parse_pairs(nothing, &KNOWN), Ok(vec![]), "{nothing}");
        }
        assert_eq!(
            parse_pairs("hall-2-c09,c16-hall-2", &KNOWN),
            Ok(vec![(4, 0), (3, 4)])
        );
    }

    #[test]
    fn what_is_no_pair_is_said() {
        for (text, expected) in [
            ("c09", "`c09` is no pair of cameras such as c09-c12"),
            (
                "c09-c99",
                "there is no camera c99; there are c09, c12, c13, c16, hall-2",
            ),
            ("c09-c09", "c09 cannot be paired with itself"),
            ("[(c09, c12)]", "a camera must be in quotes, not `c`"),
            (
                r#"[("c09")]"#,
                "there must be a comma between two cameras, not `)`",
            ),
            (r#"[("c09", "c12"]"#, "a pair must end with `)`, not `]`"),
            (
                r#"[("c09", "c12") ("c12", "c13")]"#,
                "there must be a comma between pairs, not `(`",
            ),
            (r#"["c09", "c12"]"#, "there must be `(` or `[`, not `\"`"),
            (
                r#"[("c09", "c12")"#,
                "there must be a comma between pairs, not the text's end",
            ),
            (
                "[('c09, 'c12')]",
                "there must be a comma between two cameras, not `c`",
            ),
            ("[('c09", "' is not closed"),
            ("[] c09", "the list must end the text, not `c`"),
        ] {
            assert_eq!(
                parse_pairs(text, &KNOWN),
                Err(expected.to_string()),
                "{text}"
            );
        }
    }

    proptest! {
        #[test]
        fn any_text_is_pairs_or_an_error(text in "[\\[\\]()\"', c091a-]{0,40}") {
            let _ = parse_pairs(&text, &KNOWN);
        }

        #[test]
        fn pairs_come_back(pairs in prop::collection::vec((0..5_usize, 0..5_usize), 0..8)) {
            let mut expected: Vec<(usize, usize)> = Vec::new();
            let mut items = Vec::new();
            for (a, b) in pairs {
                let seen = expected.iter().any(|&pair| pair == (a, b) || pair == (b, a));
                if a != b && !seen {
                    expected.push((a, b));
                    items.push((KNOWN[a], KNOWN[b]));
                }
            }
            let long = items.iter().map(|(a, b)| format!("('{a}', \"{b}\")"));
            let long = format!("[{}]", long.collect::<Vec<_>>().join(", "));
            prop_assert_eq!(parse_pairs(&long, &KNOWN), Ok(expected.clone()));
            let short = items.iter().map(|(a, b)| format!("{a}-{b}"));
            let short = short.collect::<Vec<_>>().join(",");
            prop_assert_eq!(parse_pairs(&short, &KNOWN), Ok(expected));
        }
    }
}
