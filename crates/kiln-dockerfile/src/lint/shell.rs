//! Shell text cut into simple commands, as far as checks need it: no expansion, no control flow.

/// A simple command.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Command {
    /// Its words without quotes.
    pub(super) words: Vec<String>,
}

impl Command {
    /// Returns the program and its arguments, past `sudo`, `env`, assignments and the words of control flow.
    pub(super) fn program(&self) -> Option<(&str, &[String])> {
        const PASSED_OVER: [&str; 10] =
            ["sudo", "env", "then", "else", "do", "if", "exec", "command", "time", "!"];
        let skip = |word: &String| PASSED_OVER.contains(&word.as_str()) || is_assignment(word);
        let at = self.words.iter().position(|word| !skip(word))?;
        let program = self.words.get(at)?;
        let name = program.rsplit('/').next().unwrap_or(program);
        Some((name, self.words.get(at + 1..).unwrap_or_default()))
    }
}

fn is_assignment(word: &str) -> bool {
    word.split_once('=').is_some_and(|(name, _)| {
        !name.is_empty() && name.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '_')
    })
}

/// Commands and how they are joined.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Script {
    /// The commands in order.
    pub(super) commands: Vec<Command>,
    /// Whether each command runs only when the one before it succeeded, and nothing else joins them.
    pub(super) only_and: bool,
}

/// Cuts a text into commands.
pub(super) fn script(text: &str) -> Script {
    let mut script = Script { commands: Vec::new(), only_and: true };
    let mut command = Command::default();
    let mut word: Option<String> = None;
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '\'' | '"' => quoted(character, &mut characters, word.get_or_insert_default()),
            '\\' => match characters.next() {
                // A continued line in the body of a heredoc.
                Some('\n') | None => {}
                Some(escaped) => word.get_or_insert_default().push(escaped),
            },
            '#' if word.is_none() => while characters.next_if(|next| *next != '\n').is_some() {},
            '&' | '|' | ';' | '\n' | '(' | ')' => {
                command.words.extend(word.take());
                let and = character == '&' && characters.next_if_eq(&'&').is_some();
                script.only_and &= and || (character == '\n' && command.words.is_empty());
                if !command.words.is_empty() {
                    script.commands.push(std::mem::take(&mut command));
                }
            }
            blank if blank.is_whitespace() => command.words.extend(word.take()),
            other => word.get_or_insert_default().push(other),
        }
    }
    command.words.extend(word);
    if !command.words.is_empty() {
        script.commands.push(command);
    }
    script
}

fn quoted(sign: char, characters: &mut std::iter::Peekable<std::str::Chars<'_>>, word: &mut String) {
    while let Some(character) = characters.next() {
        match character {
            end if end == sign => return,
            '\\' if sign == '"' => word.extend(characters.next()),
            other => word.push(other),
        }
    }
}

/// Words that only a shell understands.
const BUILTINS: [&str; 20] = [
    ".", ":", "cd", "command", "eval", "exec", "exit", "export", "false", "for", "if", "read", "set",
    "source", "test", "true", "trap", "ulimit", "umask", "while",
];

/// Returns the words of a command that means the same without a shell; none when it needs one.
pub(super) fn plain_words(text: &str) -> Option<Vec<&str>> {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "_./:@%+,=- ".contains(letter);
    let words: Vec<&str> = text.split(' ').filter(|word| !word.is_empty()).collect();
    let first = words.first()?;
    let program = !BUILTINS.contains(first) && !first.contains('=') && !first.starts_with('-');
    (program && text.chars().all(plain)).then_some(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_are_cut_into_commands() {
        let check = |text: &str, expect: &[&[&str]], only_and: bool| {
            let found = script(text);
            let words: Vec<Vec<&str>> =
                found.commands.iter().map(|c| c.words.iter().map(String::as_str).collect()).collect();
            assert_eq!(words, expect, "{text}");
            assert_eq!(found.only_and, only_and, "{text}");
        };
        check("", &[], true);
        check("a b", &[&["a", "b"]], true);
        check("a && b", &[&["a"], &["b"]], true);
        check("a; b", &[&["a"], &["b"]], false);
        check("a || b", &[&["a"], &["b"]], false);
        check("a 'b && c' \"d;\\\"e\"", &[&["a", "b && c", "d;\"e"]], true);
        check("a # b && c\nd", &[&["a"], &["d"]], false);
        check("a \\\n b", &[&["a", "b"]], true);
        check("(a) > x#y", &[&["a"], &[">", "x#y"]], false);
        check("a '", &[&["a", ""]], true);
    }

    #[test]
    fn programs_are_found() {
        let program = |text: &str| {
            let script = script(text);
            script.commands[0].program().map(|(name, arguments)| (name.to_owned(), arguments.len()))
        };
        assert_eq!(program("A=1 /usr/bin/apt-get update"), Some(("apt-get".to_owned(), 1)));
        assert_eq!(program("sudo env X= rm -f y"), Some(("rm".to_owned(), 2)));
        assert_eq!(program("A=1"), None);
    }

    #[test]
    fn plain_commands_need_no_shell() {
        assert_eq!(plain_words("node  server.js --port=80"), Some(vec!["node", "server.js", "--port=80"]));
        for text in ["", "a && b", "a $B", "exec a", "A=1 b", "a *", "echo 'x'", "a ~/b", "cd /x"] {
            assert_eq!(plain_words(text), None, "{text}");
        }
    }
}
