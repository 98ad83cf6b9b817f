//! The server as errors name it, and what it said.

use sqlx::ConnectOptions;
use sqlx::postgres::PgConnectOptions;

/// A server as errors name it: without role and password.
#[derive(Debug, Clone)]
pub(super) struct Server {
    name: String,
    pub(super) role: String,
    pub(super) schema: String,
    pub(super) has_password: bool,
}

impl Server {
    pub(super) fn new(options: &PgConnectOptions, schema: &str) -> Self {
        let host = match options.get_socket() {
            Some(socket) => socket.display().to_string(),
            None => options.get_host().to_owned(),
        };
        let database = options.get_database().unwrap_or("the default database");
        Self {
            name: format!("{host}:{}/{database}", options.get_port()),
            role: options.get_username().to_owned(),
            schema: schema.to_owned(),
            has_password: options.to_url_lossy().password().is_some(),
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// What a role needs that produces and consumes, as SQL; `role` stands for its name.
    pub(super) fn grants(&self) -> String {
        let schema = match self.schema.chars().any(|c| c.is_ascii_uppercase()) {
            true => format!("\"{}\"", self.schema),
            false => self.schema.clone(),
        };
        format!(
            "GRANT USAGE ON SCHEMA {schema} TO role; GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES \
             IN SCHEMA {schema} TO role; GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA {schema} TO role"
        )
    }

    /// Takes the name of the role out, in whatever quotation marks the server's language has.
    pub(super) fn scrub(&self, text: &str) -> String {
        const QUOTES: [(&str, &str); 6] = [
            ("\"", "\""),
            ("“", "”"),
            ("„", "“"),
            ("«", "»"),
            ("»", "«"),
            ("« ", " »"),
        ];
        let mut text = text.to_owned();
        if !self.role.is_empty() {
            for (open, close) in QUOTES {
                text = text.replace(&format!("{open}{}{close}", self.role), "(this one)");
            }
        }
        text
    }
}

/// What the server said, as the source of an error: without its details, which may have values in them.
#[derive(Debug)]
pub(super) struct Said(pub(super) String);

impl Said {
    /// What a server said to the application, which no [`Server`] was asked for.
    pub(super) fn of(error: &sqlx::Error) -> Self {
        match error {
            sqlx::Error::Database(said) => {
                let code = said.code().unwrap_or_default();
                Self(format!("SQLSTATE {code}: {}", said.message()))
            }
            error => Self(error.to_string()),
        }
    }
}

impl std::fmt::Display for Said {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Said {}
