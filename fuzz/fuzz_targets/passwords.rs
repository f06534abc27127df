//! A password file of arbitrary text: a mistake stands in a line there is, what is read is what was written, and
//! editing one line leaves the others as they are.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate::auth::passwords::{CheckMemory, PasswordMistakeKind, Users, check_name, with_line};

/// Of "secret", as mosquitto wrote it long ago: the only one that costs no time.
const HASH: &str = "$6$c2FsdHNhbHRzYWx0$3aiBbchfIZo+1WYrkPzJjQxZ79F/NmwLQ+wF073k\
                    Td+6ANhaic8G/jWF/X4sqSFUKpLNdm1FZjBck6HQ8knM3A==";
/// Names that are edited, of those in one file.
const EDITED_MAX: usize = 3;

fuzz_target!(|text: &str| {
    let lines = text.lines().count().max(1);
    match Users::parse(text) {
        Ok(users) => edit(text, &users),
        Err(mistakes) => {
            assert!(!mistakes.is_empty(), "refused, and nobody is told why");
            assert!(mistakes.is_sorted_by_key(|mistake| mistake.line));
            assert!(mistakes.iter().all(|mistake| (1..=lines).contains(&mistake.line)));
        }
    }
    let name = text.lines().next().unwrap_or_default();
    let written = with_line("", name, Some(HASH));
    assert_eq!(written.as_ref().err(), check_name(name).err().as_ref());
    if let Ok(written) = written {
        let users = Users::parse(&written).expect("what was written is read");
        assert!(users.names().eq([name]));
        let mut memory = CheckMemory::default();
        assert!(users.verify(name, b"secret", &mut memory));
        assert!(!users.verify(name, text.as_bytes(), &mut memory) || text == "secret");
    }
});

fn edit(text: &str, users: &Users) {
    assert_eq!(users.names().count(), users.len());
    for name in users.names().take(EDITED_MAX) {
        let others = || users.names().filter(|other| *other != name);
        let changed = with_line(text, name, Some(HASH)).expect("the name of a user");
        let changed = Users::parse(&changed).expect("nothing else has changed");
        assert!(changed.names().eq(users.names()));
        assert!(users.revoked_by(Some(&changed)).all(|revoked| revoked == name));
        let removed = with_line(text, name, None).expect("the name of a user");
        match Users::parse(&removed) {
            Ok(left) => assert!(left.names().eq(others())),
            Err(mistakes) => {
                assert!(others().next().is_none(), "{mistakes:?}");
                assert!(matches!(mistakes[..], [ref one] if one.kind == PasswordMistakeKind::NoUsers));
            }
        }
    }
}
