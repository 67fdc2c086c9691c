//! Parses libpq's password file: `host:port:database:user:password`, `*` is any, `\` takes `:` and `\` as they are. Pure.

/// The password of the first line that fits `host, port, database, user`.
pub(super) fn find(text: &str, wanted: [&str; 4]) -> Option<String> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.map(fields).find_map(|mut fields| {
        let password = fields.pop()?;
        let fits = fields.len() == wanted.len()
            && fields
                .iter()
                .zip(wanted)
                .all(|(field, wanted)| field == "*" || field == wanted);
        fits.then_some(password)
    })
}

/// At most five: the last goes to the end of the line.
fn fields(line: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        let c = match c {
            ':' if fields.len() < 5 => {
                fields.push(String::new());
                continue;
            }
            '\\' => chars.next().unwrap_or('\\'),
            c => c,
        };
        if let Some(field) = fields.last_mut() {
            field.push(c);
        }
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_that_fits_has_the_password() {
        let text = "# host:port:database:user:password\n\
                    other:5432:db:me:wrong\n\
                    host:*:db:me:pass\\:wo\\\\rd:s\n\
                    *:*:*:*:last\n";
        let find = |host, user| find(text, [host, "5432", "db", user]);
        assert_eq!(find("host", "me").as_deref(), Some("pass:wo\\rd:s"));
        assert_eq!(find("other", "me").as_deref(), Some("wrong"));
        assert_eq!(find("host", "you").as_deref(), Some("last"));
        assert_eq!(super::find("short:line", ["short", "1", "d", "u"]), None);
    }
}
