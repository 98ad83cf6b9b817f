//! Private PostgreSQL clusters for tests.
//!
//! `initdb` runs once a machine and user; each cluster is a copy of what it made. A cluster listens on
//! a Unix socket in its directory and on a free TCP port of the loopback, with fsync on, and trusts
//! who connects. It is stopped and removed when its handle is dropped, and also when the process of
//! the tests ends in any way, SIGKILL included: a guard process waits for that.
//!
//! Only processes that were started here are ever signalled, by their id.

#![allow(dead_code, unreachable_pub, reason = "not every test needs all of it")]

use std::fs;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::sleep;
use std::time::Duration;

use port::Port;

mod port;
pub mod proxy;

/// How long starting, stopping and copying may take, on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(600);

/// A server that does not start is tried so often, where that is possible at other ports.
const TRIES: usize = 5;

/// SQL that makes a log of one batch into one of so many more, as if they had been appended one by one,
/// all of them so long ago that trimming may delete them.
pub fn copies_of_long_ago(more: usize) -> String {
    format!(
        "UPDATE flowstream.batches SET appended_at = clock_timestamp() - interval '2 hours';
         INSERT INTO flowstream.batches
             (stream_id, partition, base_offset, count, appended_at, batch_id, ends, bodies)
         SELECT stream_id, partition, number, count, appended_at, gen_random_uuid(), ends, bodies
         FROM flowstream.batches, generate_series(1, {more}) number"
    )
}

/// One server with its data.
pub struct Cluster {
    directory: PathBuf,
    port: Port,
    /// Removes the cluster once its standard input is closed.
    guard: Option<Child>,
    /// Variables of the server's environment, as `NAME=value`.
    environment: Vec<String>,
    /// Those besides the defaults.
    settings: Vec<(String, String)>,
}

/// How a server is told to stop.
#[derive(Clone, Copy, Debug)]
pub enum Stop {
    /// Ends the connections, writes a checkpoint.
    Fast,
    /// As a crash: recovery at the next start.
    Immediate,
}

impl Cluster {
    /// A new server with these settings besides the defaults, running.
    pub fn start_with(settings: &[(&str, &str)]) -> Self {
        Self::start_in(&std::env::temp_dir(), settings)
    }

    /// As [`start_with`](Self::start_with), with its data below this directory.
    pub fn start_in(parent: &Path, settings: &[(&str, &str)]) -> Self {
        let mut cluster = Self::create(parent, settings);
        cluster.start_anywhere();
        cluster
    }

    /// A new server, running.
    pub fn start_new() -> Self {
        Self::start_with(&[])
    }

    /// A new server with variables in its environment, running.
    pub fn start_under(environment: &[(String, String)], settings: &[(&str, &str)]) -> Self {
        let mut cluster = Self::create(&std::env::temp_dir(), settings);
        let variables = environment.iter();
        cluster.environment = variables
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        cluster.start_anywhere();
        cluster
    }

    /// Whether the user that runs the server can get into this directory.
    pub fn can_use(parent: &Path) -> bool {
        let status = as_server_user("test").arg("-x").arg(parent).status();
        status.is_ok_and(|status| status.success())
    }

    fn create(parent: &Path, settings: &[(&str, &str)]) -> Self {
        let template = template();
        let directory = new_directory_in(parent, "cluster");
        run(as_server_user("cp")
            .arg("-a")
            .arg(&template)
            .arg(directory.join("data")));
        let cluster = Self {
            port: Port::claim(),
            guard: Some(guard(&directory, "data", "postmaster.pid", "QUIT")),
            environment: Vec::new(),
            settings: owned(settings),
            directory,
        };
        cluster.configure();
        cluster
    }

    fn configure(&self) {
        let mut text = format!(
            "port = {}\nlisten_addresses = '127.0.0.1'\nunix_socket_directories = '{}'\n",
            self.port(),
            self.directory.display()
        );
        for (name, value) in &self.settings {
            text += &format!("{name} = '{value}'\n");
        }
        let path = self.data().join("postgresql.auto.conf");
        fs::write(path, text).expect("the settings are written");
    }

    fn data(&self) -> PathBuf {
        self.directory.join("data")
    }

    /// Where sockets and logs are.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The port, of TCP and in the name of the socket.
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// Starts a new server, at another port where somebody took this one.
    fn start_anywhere(&mut self) {
        for _ in 1..TRIES {
            if self.try_start() {
                return;
            }
            self.port = Port::claim();
            self.configure();
        }
        self.start();
    }

    /// Starts the server after a [`stop`](Self::stop), and waits until it takes connections.
    pub fn start(&self) {
        let starts = (0..TRIES).any(|_| self.try_start());
        assert!(starts, "the server does not start:\n{}", self.log());
    }

    /// Whether it takes connections now; it has ended otherwise.
    fn try_start(&self) -> bool {
        let said_before = self.log().len();
        self.launch();
        let mut starts = false;
        wait("the server starts", || {
            starts = self.state().as_deref() == Some("ready");
            starts || (self.pid().is_none() && self.log()[said_before..].contains("FATAL"))
        });
        starts
    }

    /// What the server has said so far.
    fn log(&self) -> String {
        let log = fs::read(self.directory.join("log")).unwrap_or_default();
        String::from_utf8_lossy(&log).into_owned()
    }

    fn launch(&self) {
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.directory.join("log"))
            .expect("the log is opened");
        // Its parent goes at once, so that the server is nobody's zombie.
        let mut command = as_server_user("sh");
        command
            .args(["-c", "exec 3>&-; env \"$@\" &", "sh"])
            .args(&self.environment)
            .arg(binaries().join("postgres"))
            .arg("-D")
            .arg(self.data())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a handle of the log"))
            .stderr(log);
        run_as_it_is(&mut command);
    }

    /// The id of the server's main process, while it runs.
    pub fn pid(&self) -> Option<u32> {
        let pid = self.postmaster_line(0)?.trim().parse().ok()?;
        Path::new(&format!("/proc/{pid}")).exists().then_some(pid)
    }

    fn state(&self) -> Option<String> {
        self.pid()?;
        Some(self.postmaster_line(7)?.trim().to_owned())
    }

    fn postmaster_line(&self, number: usize) -> Option<String> {
        let file = fs::read_to_string(self.data().join("postmaster.pid")).ok()?;
        file.lines().nth(number).map(str::to_owned)
    }

    /// Stops the server and waits until it is gone. The data stays.
    pub fn stop(&self, how: Stop) {
        let Some(pid) = self.pid() else { return };
        let signal = match how {
            Stop::Fast => "INT",
            Stop::Immediate => "QUIT",
        };
        self.signal(pid, signal);
        wait("the server stops", || self.pid().is_none());
    }

    /// Sends a signal to a process of this server: one of its backends, or the main one.
    pub fn signal(&self, pid: u32, signal: &str) {
        let sent = self.try_signal(pid, signal);
        assert!(sent, "{pid} is no process of this server");
    }

    /// The same; false if there is no such process, any more.
    pub fn try_signal(&self, pid: u32, signal: &str) -> bool {
        let (parent, main) = (parent_of(pid), self.pid());
        let is_ours = Some(pid) == main || (parent.is_some() && parent == main);
        let mut kill = Command::new("kill");
        kill.args([&format!("-{signal}"), &pid.to_string()]);
        is_ours && try_run(&mut kill).is_ok()
    }

    /// A URL over TCP, as the superuser.
    pub fn url(&self, database: &str) -> String {
        self.url_as("postgres", database)
    }

    /// A URL over TCP, as this role.
    pub fn url_as(&self, role: &str, database: &str) -> String {
        format!("postgres://{role}@127.0.0.1:{}/{database}", self.port())
    }

    /// A URL over the Unix socket, as the superuser.
    pub fn socket_url(&self, database: &str) -> String {
        let directory = self.directory.display();
        format!(
            "postgres://postgres@localhost:{}/{database}?host={directory}",
            self.port()
        )
    }

    /// Runs SQL through psql, as the superuser, and gives what it printed, without decoration.
    ///
    /// # Panics
    ///
    /// If the server reports an error.
    pub fn psql(&self, database: &str, sql: &str) -> String {
        self.psql_at(&self.url(database), sql)
    }

    /// The same as another role, or by another way.
    pub fn psql_at(&self, url: &str, sql: &str) -> String {
        let done = try_run(&mut psql(url, sql));
        done.unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    /// The same, but an error of the server is given.
    pub fn try_psql(&self, database: &str, sql: &str) -> Result<String, String> {
        self.try_psql_at(&self.url(database), sql)
    }

    /// The same by another way.
    pub fn try_psql_at(&self, url: &str, sql: &str) -> Result<String, String> {
        try_run(&mut psql(url, sql))
    }

    /// Waits until nobody else is connected to a database.
    pub fn wait_for_sessions(&self, database: &str) {
        let others = format!(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = '{database}' \
             AND backend_type = 'client backend' AND pid <> pg_backend_pid()"
        );
        wait("all sessions end", || {
            self.psql(database, &others).trim() == "0"
        });
    }

    /// A new, empty database: its name.
    pub fn database(&self) -> String {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("db{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        self.psql("postgres", &format!("CREATE DATABASE {name}"));
        name
    }

    /// A standby of this server, streaming from it, running, with the same settings.
    pub fn standby(&self) -> Self {
        let directory = new_directory("standby");
        run(as_server_user(binaries().join("pg_basebackup"))
            .args(["--checkpoint=fast", "--write-recovery-conf", "-D"])
            .arg(directory.join("data"))
            .arg("-d")
            .arg(self.url("postgres")));
        let source = format!("user=postgres host=127.0.0.1 port={}", self.port());
        let mut settings = self.settings.clone();
        settings.push(("primary_conninfo".to_owned(), source));
        let mut standby = Self {
            port: Port::claim(),
            guard: Some(guard(&directory, "data", "postmaster.pid", "QUIT")),
            environment: Vec::new(),
            settings,
            directory,
        };
        standby.configure();
        standby.start_anywhere();
        standby
    }

    /// A standby that gets nothing more: what the primary does from now on is lost with it.
    pub fn stop_following(&self) {
        self.psql("postgres", "ALTER SYSTEM SET primary_conninfo = ''");
        self.psql("postgres", "SELECT pg_reload_conf()");
        wait("the standby stops following", || {
            let receivers = "SELECT count(*) FROM pg_stat_wal_receiver";
            self.psql("postgres", receivers).trim() == "0"
        });
    }

    /// Waits until this standby has what the primary has now.
    pub fn catch_up(&self, primary: &Self) {
        let lsn = primary.psql("postgres", "SELECT pg_current_wal_flush_lsn()");
        let replayed = format!("SELECT pg_last_wal_replay_lsn() >= '{}'", lsn.trim());
        wait("the standby catches up", || {
            self.psql("postgres", &replayed).trim() == "t"
        });
    }

    /// A new role that has to give its password, so that logging in takes a message more. It may do
    /// everything.
    pub fn role_with_password(&self, role: &str, password: &str, method: &str) {
        let encryption = if method == "md5" {
            "md5"
        } else {
            "scram-sha-256"
        };
        self.psql(
            "postgres",
            &format!(
                "SET password_encryption = '{encryption}'; \
                 CREATE ROLE {role} SUPERUSER LOGIN PASSWORD '{password}'"
            ),
        );
        let path = self.data().join("pg_hba.conf");
        let others = fs::read_to_string(&path).expect("who may log in");
        let rule = format!("host all {role} 127.0.0.1/32 {method}\n");
        fs::write(&path, rule + &others).expect("who may log in is written");
        self.psql("postgres", "SELECT pg_reload_conf()");
    }

    /// Makes a standby the primary.
    pub fn promote(&self) {
        self.psql("postgres", "SELECT pg_promote(true)");
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Some(mut guard) = self.guard.take() {
            drop(guard.stdin.take());
            // It has nothing to say, and cleans up as well as it can.
            let _ = guard.wait();
        }
    }
}

/// A process that outlives this one by the time that it takes to end the server that works in a
/// part of the directory, and to remove the directory.
fn guard(directory: &Path, work: &str, pid_file: &str, signal: &str) -> Child {
    let script = r#"
        cat >/dev/null
        work=$(readlink -f "$0/$1")
        pid=$(head -n 1 "$work/$2" 2>/dev/null)
        if [ -n "$pid" ] && [ "$(readlink -f "/proc/$pid/cwd")" = "$work" ]; then
            kill "-$3" "$pid"
            for _ in $(seq 3000); do [ -e "/proc/$pid" ] || break; sleep 0.1; done
        fi
        rm -rf "$0"
    "#;
    Command::new("setsid")
        .args(["sh", "-c", script])
        .arg(directory)
        .args([work, pid_file, signal])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the guard is started")
}

/// A pgbouncer in transaction mode before a cluster.
pub struct Bouncer {
    port: Port,
    child: Child,
    guard: Child,
}

impl Bouncer {
    /// Starts one; `None` if it is not installed.
    pub fn start(cluster: &Cluster) -> Option<Self> {
        let binary = ["/usr/sbin/pgbouncer", "/usr/bin/pgbouncer"]
            .into_iter()
            .find(|path| Path::new(path).exists())?;
        let started = (0..TRIES).find_map(|_| Self::try_start(binary, cluster));
        Some(started.expect("pgbouncer starts"))
    }

    /// `None` if it has ended, because somebody took its port.
    fn try_start(binary: &str, cluster: &Cluster) -> Option<Self> {
        let directory = new_directory("bouncer");
        let (port, path) = (Port::claim(), directory.join("pgbouncer.ini"));
        let settings = format!(
            "[databases]\n* = host=127.0.0.1 port={server} user=postgres\n[pgbouncer]\n\
             listen_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\n\
             pool_mode = transaction\ndefault_pool_size = 4\nmax_client_conn = 500\n\
             server_tls_sslmode = disable\npidfile = {pid}\nignore_startup_parameters = extra_float_digits\n",
            server = cluster.port(),
            port = port.number(),
            pid = directory.join("pid").display(),
        );
        fs::write(&path, settings).expect("the settings are written");
        let log = fs::File::create(directory.join("log")).expect("a log");
        let guard = guard(&directory, ".", "pid", "TERM");
        let child = as_server_user(binary)
            .arg(&path)
            .current_dir(&directory)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a handle of the log"))
            .stderr(log)
            .spawn()
            .expect("pgbouncer is started");
        let mut bouncer = Self { port, child, guard };
        let mut starts = false;
        wait("pgbouncer starts", || {
            let has_ended = bouncer.child.try_wait().expect("a look").is_some();
            let address = ("127.0.0.1", bouncer.port.number());
            starts = !has_ended && std::net::TcpStream::connect(address).is_ok();
            starts || has_ended
        });
        starts.then_some(bouncer)
    }

    /// A URL through the pooler.
    pub fn url(&self, database: &str) -> String {
        let port = self.port.number();
        format!("postgres://postgres@127.0.0.1:{port}/{database}")
    }
}

impl Drop for Bouncer {
    fn drop(&mut self) {
        // The child is the pooler itself: setpriv becomes what it runs.
        let _ = self.child.kill();
        let _ = self.child.wait();
        drop(self.guard.stdin.take());
        let _ = self.guard.wait();
    }
}

/// What initdb made, once: copied for each cluster.
fn template() -> PathBuf {
    let version = run(Command::new(binaries().join("postgres")).arg("--version"));
    let version: String = version.chars().filter(|c| c.is_ascii_digit()).collect();
    let user = run(Command::new("id").arg("-u"));
    let name = format!("flowstream-initdb-{version}-{}-1", user.trim());
    let template = std::env::temp_dir().join(name);
    if template.join("PG_VERSION").exists() {
        return template;
    }
    let draft = new_directory("initdb");
    run(as_server_user(binaries().join("initdb"))
        .args(["--auth=trust", "--username=postgres", "--encoding=UTF8"])
        .args(["--locale=C", "--no-instructions", "-D"])
        .arg(draft.join("data")));
    // Whoever comes first wins; the others made the same.
    if fs::rename(draft.join("data"), &template).is_err() {
        assert!(template.join("PG_VERSION").exists(), "a template");
    }
    let _ = fs::remove_dir_all(draft);
    template
}

fn psql(url: &str, sql: &str) -> Command {
    let mut command = Command::new(binaries().join("psql"));
    command
        .args(["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-c", sql])
        .arg(url);
    command
}

fn binaries() -> PathBuf {
    if let Some(directory) = std::env::var_os("POSTGRES_BIN") {
        return directory.into();
    }
    let mut versions: Vec<(u32, PathBuf)> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path())))
        .map(|(version, path)| (version, path.join("bin")))
        .filter(|(_, path)| path.join("initdb").exists())
        .collect();
    versions.sort();
    let newest = versions.pop().map(|(_, path)| path);
    newest.expect("PostgreSQL is installed (tests/run does it), or POSTGRES_BIN names its binaries")
}

fn owned(settings: &[(&str, &str)]) -> Vec<(String, String)> {
    let settings = settings.iter();
    let owned = settings.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    owned.collect()
}

fn is_root() -> bool {
    run(Command::new("id").arg("-u")).trim() == "0"
}

/// The server refuses to run as root: then the user `postgres` runs it.
fn as_server_user(program: impl AsRef<std::ffi::OsStr>) -> Command {
    if !is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid=postgres", "--regid=postgres", "--init-groups"])
        .arg(program);
    command
}

/// A new directory that belongs to who runs the server.
fn new_directory(kind: &str) -> PathBuf {
    new_directory_in(&std::env::temp_dir(), kind)
}

fn new_directory_in(parent: &Path, kind: &str) -> PathBuf {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    // In another container, or after a while, somebody else has the same process id.
    let chance = RandomState::new().build_hasher().finish() as u32;
    let name = format!(
        "flowstream-{kind}-{}-{number}-{chance:x}",
        std::process::id()
    );
    let directory = parent.join(name);
    fs::create_dir_all(parent).expect("a directory");
    fs::create_dir(&directory).expect("a directory that nobody has");
    if is_root() {
        run(Command::new("chown")
            .arg("postgres:postgres")
            .arg(&directory));
    }
    directory
}

fn parent_of(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in brackets, may have anything in it.
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(1)?.parse().ok()
}

fn run(command: &mut Command) -> String {
    let done = try_run(command);
    done.unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

/// What it printed, or what it complained of.
fn try_run(command: &mut Command) -> Result<String, String> {
    let output = command.stdin(Stdio::null()).output();
    let output = output.map_err(|error| error.to_string())?;
    let said = |bytes| String::from_utf8_lossy(bytes).into_owned();
    match output.status.success() {
        true => Ok(said(&output.stdout)),
        false => Err(said(&output.stderr)),
    }
}

/// Without pipes, which a server would keep open.
fn run_as_it_is(command: &mut Command) {
    let status: io::Result<_> = command.status();
    let status = status.unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(status.success(), "{command:?}");
}

fn wait(what: &str, mut holds: impl FnMut() -> bool) {
    let step = Duration::from_millis(10);
    for _ in 0..PATIENCE.as_millis() / step.as_millis() {
        if holds() {
            return;
        }
        sleep(step);
    }
    panic!("not within {PATIENCE:?}: {what}");
}

/// Each insert of a batch fails as the one row of `public.fault` says, if there is one.
pub(crate) const FAULTS: &str = "
    CREATE TABLE public.fault (code text);
    CREATE FUNCTION public.fail() RETURNS trigger LANGUAGE plpgsql AS $$
    DECLARE
        found text;
    BEGIN
        SELECT code INTO found FROM public.fault;
        IF found IS NOT NULL THEN
            RAISE EXCEPTION 'the server says so' USING ERRCODE = found, DETAIL = 'hunter2';
        END IF;
        RETURN NEW;
    END $$;
    CREATE TRIGGER fail BEFORE INSERT ON flowstream.batches FOR EACH ROW
        EXECUTE FUNCTION public.fail()";
