//! Users and groups of an image: `/etc/passwd` and `/etc/group` (passwd(5), group(5)).

use std::io::Read as _;

use kiln_oci::layer::EntryPath;

use super::tree::{Tree, resolve};
use crate::error::{Error, Result};

/// The accounts of a root file system.
#[derive(Debug, Default, Clone)]
pub(crate) struct Accounts {
    users: Vec<User>,
    groups: Vec<Group>,
}

#[derive(Debug, Clone)]
struct User {
    name: String,
    uid: u32,
    gid: u32,
    home: String,
}

#[derive(Debug, Clone)]
struct Group {
    name: String,
    gid: u32,
    members: Vec<String>,
}

/// Who a process is or whom a file belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Account {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
    pub(crate) home: String,
}

/// An account file larger than this is not read.
const MAX_FILE: u64 = 16 << 20;

impl Accounts {
    /// Reads the accounts of a root file system; missing files are empty.
    pub(crate) fn read(tree: &dyn Tree) -> Result<Self> {
        let read = |path: &str| -> Result<String> {
            let path = EntryPath::rooted(path).map_err(|e| Error::internal("bad path").because(e))?;
            let path = resolve(tree, &path)?;
            let is_file =
                tree.stat(&path)?.is_some_and(|n| matches!(n.entry.kind, kiln_oci::layer::Kind::File { .. }));
            if !is_file {
                return Ok(String::new());
            }
            let mut bytes = Vec::new();
            let file = tree.open(&path)?;
            file.take(MAX_FILE)
                .read_to_end(&mut bytes)
                .map_err(|e| Error::environment(format!("cannot read `/{path}` of the image")).because(e))?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        Ok(Self::parse(&read("/etc/passwd")?, &read("/etc/group")?))
    }

    fn parse(passwd: &str, group: &str) -> Self {
        let user = |line: &str| {
            let fields: Vec<&str> = line.split(':').collect();
            let [name, _, uid, gid, _, home, ..] = fields.as_slice() else { return None };
            Some(User { name: (*name).to_owned(), uid: id(uid)?, gid: id(gid)?, home: (*home).to_owned() })
        };
        let group_of = |line: &str| {
            let fields: Vec<&str> = line.split(':').collect();
            let [name, _, gid, members, ..] = fields.as_slice() else { return None };
            Some(Group {
                name: (*name).to_owned(),
                gid: id(gid)?,
                members: members
                    .split(',')
                    .map(str::trim)
                    .filter(|m| !m.is_empty())
                    .map(str::to_owned)
                    .collect(),
            })
        };
        Self {
            users: passwd.lines().filter_map(user).collect(),
            groups: group.lines().filter_map(group_of).collect(),
        }
    }

    /// Returns the owner that `--chown` or `WORKDIR` means: a number alone is user and group.
    ///
    /// # Errors
    /// When the image has no such user or group.
    pub(crate) fn owner(&self, user: &str) -> Result<(u32, u32)> {
        let (name, group) = split(user);
        let (uid, primary) = match id(name) {
            Some(uid) => (uid, uid),
            None if name.is_empty() => (0, 0),
            None => self.user(name).map(|u| (u.uid, u.gid))?,
        };
        Ok((uid, group.map_or(Ok(primary), |g| self.group(g))?))
    }

    /// Returns who a RUN is: group, groups and home directory come from the image.
    ///
    /// # Errors
    /// When the image has no such user or group.
    pub(crate) fn process(&self, user: &str) -> Result<Account> {
        let (name, group) = split(user);
        let found = match id(name) {
            Some(uid) => self.users.iter().find(|u| u.uid == uid).cloned().unwrap_or(User {
                name: String::new(),
                uid,
                gid: 0,
                home: "/".to_owned(),
            }),
            None if name.is_empty() => self.users.iter().find(|u| u.uid == 0).cloned().unwrap_or(User {
                name: "root".to_owned(),
                uid: 0,
                gid: 0,
                home: "/root".to_owned(),
            }),
            None => self.user(name)?.clone(),
        };
        // A group given by the user stands alone, as in Docker.
        let Some(group) = group else {
            let member = |g: &&Group| !found.name.is_empty() && g.members.contains(&found.name);
            let groups = self.groups.iter().filter(member).map(|g| g.gid).collect();
            return Ok(Account { uid: found.uid, gid: found.gid, groups, home: found.home });
        };
        Ok(Account { uid: found.uid, gid: self.group(group)?, groups: Vec::new(), home: found.home })
    }

    fn user(&self, name: &str) -> Result<&User> {
        let names: Vec<&str> = self.users.iter().map(|u| u.name.as_str()).collect();
        self.users.iter().find(|u| u.name == name).ok_or_else(|| unknown("user", name, "/etc/passwd", &names))
    }

    fn group(&self, name: &str) -> Result<u32> {
        if let Some(gid) = id(name) {
            return Ok(gid);
        }
        let names: Vec<&str> = self.groups.iter().map(|g| g.name.as_str()).collect();
        let found = self.groups.iter().find(|g| g.name == name).map(|g| g.gid);
        found.ok_or_else(|| unknown("group", name, "/etc/group", &names))
    }
}

/// Parses the number of an account. The largest of 32 bits is none: system calls take it for "leave it as it is".
fn id(text: &str) -> Option<u32> {
    text.parse().ok().filter(|id| *id != u32::MAX)
}

fn split(user: &str) -> (&str, Option<&str>) {
    match user.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|g| !g.is_empty())),
        None => (user, None),
    }
}

fn unknown(what: &str, name: &str, file: &str, names: &[&str]) -> Error {
    let error = Error::input(format!("the image has no {what} `{name}` in `{file}`"));
    match kiln_dockerfile::suggest(name, names) {
        Some(near) => error.hint(format!("did you mean `{near}`?")),
        None => error.hint(format!("add the {what} in an earlier RUN, or give a number")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accounts() -> Accounts {
        Accounts::parse(
            "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001:App:/home/app:/bin/sh\nbad line\n",
            "root:x:0:\napp:x:1001:\nwheel:x:10:root,app\n",
        )
    }

    #[test]
    fn owners() {
        let check =
            |user: &str, expect: (u32, u32)| assert_eq!(accounts().owner(user).unwrap(), expect, "{user}");
        check("", (0, 0));
        check("app", (1000, 1001));
        check("app:wheel", (1000, 10));
        check("33", (33, 33));
        check("33:app", (33, 1001));
        check("app:5", (1000, 5));
        assert!(accounts().owner("ap").unwrap_err().hints[0].contains("`app`"));
        assert!(accounts().owner("4294967295").unwrap_err().message.contains("user `4294967295`"));
        assert!(accounts().owner("app:nope").unwrap_err().message.contains("group `nope`"));
    }

    #[test]
    fn processes() {
        let app = accounts().process("app").unwrap();
        assert_eq!(app, Account { uid: 1000, gid: 1001, groups: vec![10], home: "/home/app".into() });
        let number = accounts().process("1000").unwrap();
        assert_eq!(number, app);
        let stranger = accounts().process("4711").unwrap();
        assert_eq!(stranger, Account { uid: 4711, gid: 0, groups: vec![], home: "/".into() });
        assert_eq!(Accounts::default().process("").unwrap().home, "/root");
        assert_eq!(accounts().process("app:0").unwrap().groups, Vec::<u32>::new());
    }
}
