//! Names of users' files: text to be shown, and nothing else.

/// Most characters of a name that are kept.
const MAX_CHARS: usize = 120;

/// What is left of a user's file name: no folders, no control characters, none that turn the
/// direction of text, at most 120 characters; `upload` if nothing is left.
pub fn shown_name(name: &str) -> String {
    let last = name.rsplit(['/', '\\']).next().unwrap_or_default();
    let plain: String = last
        .chars()
        .filter(|c| !c.is_control() && !turns_text(*c))
        .take(MAX_CHARS)
        .collect();
    match plain.trim().trim_matches('.') {
        "" => "upload".to_string(),
        name => name.to_string(),
    }
}

/// Marks that let `gpj.exe` look like `exe.jpg`, and those that are invisible.
fn turns_text(c: char) -> bool {
    matches!(c, '\u{200B}'..='\u{200F}' | '\u{202A}'..='\u{202E}' | '\u{2060}'..='\u{2069}' | '\u{FEFF}')
}

/// The `Content-Disposition` of a file that is to be saved as `name` (RFC 6266): in ASCII for old
/// clients, and percent-encoded (RFC 8187).
pub fn disposition(name: &str) -> String {
    let ascii: String = name
        .chars()
        .map(|c| match c {
            '"' | '\\' | '%' => '_',
            c if c.is_ascii_graphic() || c == ' ' => c,
            _ => '_',
        })
        .collect();
    let mut encoded = String::new();
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    format!("attachment; filename=\"{ascii}\"; filename*=UTF-8''{encoded}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_lose_what_could_do_harm() {
        assert_eq!(shown_name("street.mp4"), "street.mp4");
        assert_eq!(shown_name("../../etc/passwd"), "passwd");
        assert_eq!(shown_name("C:\\videos\\a.avi"), "a.avi");
        assert_eq!(shown_name("a\0b\r\n.mp4"), "ab.mp4");
        assert_eq!(shown_name("a\u{202E}4pm.exe"), "a4pm.exe");
        assert_eq!(shown_name("监控 1.mp4"), "监控 1.mp4");
        for nothing in ["", "..", "a/", "\0"] {
            assert_eq!(shown_name(nothing), "upload", "{nothing:?}");
        }
        assert_eq!(shown_name(&"x".repeat(4096)).len(), MAX_CHARS);
    }

    // The example of RFC 8187, section 3.2.2: "£ rates".
    #[test]
    fn dispositions() {
        assert_eq!(
            disposition("\u{a3} rates"),
            "attachment; filename=\"_ rates\"; filename*=UTF-8''%C2%A3%20rates"
        );
        assert!(disposition("a\"; x=\"b").starts_with("attachment; filename=\"a_; x=_b\";"));
    }

    proptest! {
        #[test]
        fn headers_stay_one_line_of_ascii(name in any::<String>()) {
            let header = disposition(&shown_name(&name));
            prop_assert!(header.bytes().all(|byte| (0x20..0x7F).contains(&byte)));
        }
    }
}
