//! One file per group of commands.

mod account;
mod api_key;
mod application;
mod audit;
mod bound;
mod children;
mod fleet;
mod generate;
mod group;
mod import;
mod invitation;
mod login;
mod loopback;
mod operate;
mod policy;
mod process;
mod proxy;
mod registration_token;
mod signal;
mod supervisor;
mod tenant;
mod token;
mod up;
mod upgrade;

use crate::{
    cli::{Cli, Command, LogFormatArgument},
    context::Context,
    failure::Outcome,
    output::Output,
};

/// What every command gets.
pub struct Invocation {
    /// Remembered fleet and logins.
    pub context: Context,
    /// Where results go.
    pub output: Output,
    /// How to log, as the flags say.
    pub logging: Logging,
}

/// How to log, as the flags say.
pub struct Logging {
    /// Form.
    pub format: Option<LogFormatArgument>,
    /// Filter.
    pub filter: Option<String>,
}

/// Runs the command.
pub async fn run(cli: Cli) -> Outcome {
    let invocation = Invocation {
        context: Context::new(&cli.global)?,
        output: Output::new(cli.global.output),
        logging: Logging {
            format: cli.global.log_format,
            filter: cli.global.log,
        },
    };
    match cli.command {
        Command::Up(arguments) => up::up(&invocation, arguments).await,
        Command::Server(arguments) => up::server(&invocation, arguments).await,
        Command::Gateway(arguments) => proxy::gateway(&invocation, arguments).await,
        Command::Sidecar(arguments) => proxy::sidecar(&invocation, arguments).await,
        Command::Check(arguments) => fleet::check(&invocation, &arguments),
        Command::Apply(arguments) => fleet::apply(&invocation, &arguments).await,
        Command::Status => operate::status(&invocation).await,
        Command::Login(arguments) => login::login(&invocation, arguments).await,
        Command::Logout => login::logout(&invocation).await,
        Command::Token { command: None } => login::token(&invocation).await,
        Command::Token {
            command: Some(command),
        } => token::run(&invocation, command).await,
        Command::Config(command) => fleet::config(&invocation, command),
        Command::Policy(command) => policy::run(&invocation, command).await,
        Command::Audit(command) => audit::run(&invocation, command).await,
        Command::Tenant(command) => tenant::run(&invocation, command).await,
        Command::User(command) => account::user(&invocation, command).await,
        Command::Group(command) => group::group(&invocation, command).await,
        Command::Role(command) => group::role(&invocation, command).await,
        Command::Import(command) => import::run(&invocation, command).await,
        Command::Client(command) => application::client(&invocation, command).await,
        Command::ServiceAccount(command) => {
            application::service_account(&invocation, command).await
        }
        Command::IdentityProvider(command) => {
            account::identity_provider(&invocation, command).await
        }
        Command::Session(command) => account::session(&invocation, command).await,
        Command::Signal(command) => signal::run(&invocation, command).await,
        Command::Proxy(command) => operate::proxy(&invocation, command).await,
        Command::JoinToken(command) => operate::join_token(&invocation, command).await,
        Command::ApiKey(command) => api_key::run(&invocation, command).await,
        Command::RegistrationToken(command) => registration_token::run(&invocation, command).await,
        Command::Key(command) => operate::key(&invocation, command).await,
        Command::Completions { shell } => generate::completions(shell),
        Command::Man { directory } => generate::man(&directory),
        Command::RunBound { parent, command } => Err(bound::become_program(parent, &command)),
    }
}
