//! What a process of the crew is.

/// What it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Role {
    /// Appends to the stream `in`.
    Write,
    /// Consumes `in` for the group `workers`.
    Work,
    /// Forwards `in` to `out`, as the group `copiers`.
    Copy,
}

/// What it goes without, to see that the checks find out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Without {
    /// Nothing: as it should be.
    Nothing,
    /// Commits and appends that were refused because the lease was lost are written all the same.
    Fence,
    /// An append whose answer got lost is tried again under another id.
    Ids,
    /// Messages are committed before they are worked on.
    Order,
}

/// All that a process has to know besides its job.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part {
    pub(crate) role: Role,
    /// Unlike that of all other processes; never 0.
    pub(crate) number: u32,
    pub(crate) without: Without,
}

/// Where a process finds its part.
const PART: &str = "FLOWSTREAM_CHAOS_PART";

const ROLES: [Role; 3] = [Role::Write, Role::Work, Role::Copy];
const WITHOUTS: [Without; 4] = [
    Without::Nothing,
    Without::Fence,
    Without::Ids,
    Without::Order,
];

impl Part {
    /// A variable of the environment.
    pub(crate) fn encode(&self) -> (String, String) {
        let text = format!("{:?} {} {:?}", self.role, self.number, self.without);
        (PART.to_owned(), text)
    }

    /// The one that the parent gave to this process.
    pub(crate) fn given() -> Option<Self> {
        let text = std::env::var(PART).ok()?;
        let words: Vec<&str> = text.split(' ').collect();
        let [role, number, without] = words[..] else {
            return None;
        };
        Some(Self {
            role: *ROLES.iter().find(|it| format!("{it:?}") == role)?,
            number: number.parse().ok()?,
            without: *WITHOUTS.iter().find(|it| format!("{it:?}") == without)?,
        })
    }
}
