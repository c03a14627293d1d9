//! The HTML. Whatever comes from a client is escaped.

use super::{Event, accounts::Refused, devices};
use axum::response::{Html, IntoResponse, Response};
use std::fmt::{self, Write as _};
use towerkeep::{
    Backend, UserId,
    session::{Activity, Device, Selector},
};

/// A page: its own part, between what all of them have.
pub(super) struct Page {
    main: String,
    footer: String,
}

/// For those who are not logged in.
const FORMS: &str = r#"<div class="columns">
<section class="card">
<h2>Log in</h2>
<form method="post" action="/login">
<label>Name <input name="name" autocomplete="username" required maxlength="30"></label>
<label>Password <input name="password" type="password" autocomplete="current-password" required></label>
<label class="tick"><input name="remember" type="checkbox"> Remember me for 30 days</label>
<button class="primary">Log in</button>
</form>
</section>
<section class="card">
<h2>Register</h2>
<form method="post" action="/register">
<label>Name <input name="name" autocomplete="username" required maxlength="30" pattern="[A-Za-z0-9._\-]+"></label>
<label>Password <small>(8 characters or more)</small> <input name="password" type="password" autocomplete="new-password" required minlength="8" maxlength="200"></label>
<button>Create an account</button>
</form>
</section>
</div>
"#;

/// Text that is shown as it is.
struct Text<T>(T);

impl<T: fmt::Display> fmt::Display for Text<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.to_string().chars() {
            match c {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

impl Page {
    /// For visitors.
    pub(super) fn welcome(backend: &Backend, messages: &[String]) -> Self {
        let mut main = flashed(messages);
        main += FORMS;
        Self { main, footer: lives_in(backend) }
    }

    /// For users.
    pub(super) fn account(
        backend: &Backend,
        messages: &[String],
        user: &UserId,
        visits: i64,
        agent: &str,
    ) -> Self {
        let mut main = flashed(messages);
        let times = if visits == 1 { "once".to_owned() } else { format!("{visits} times") };
        let _ = write!(
            main,
            r#"<section class="card who">
<div><h2>Hello, {}</h2><p>You have opened this page {times} in this session, with {}.</p></div>
<form method="post" action="/logout"><button>Log out</button></form>
</section>
"#,
            Text(user),
            Text(agent)
        );
        Self { main, footer: lives_in(backend) }
    }

    /// Where the user is logged in.
    pub(super) fn devices(mut self, devices: &[Device], this: Option<Selector>) -> Self {
        self.main +=
            "<section class=\"card\">\n<h2>Where you are logged in</h2>\n<ul class=\"rows\">\n";
        for device in devices {
            let label = device.info::<String>().ok().flatten();
            let label = label.unwrap_or_else(|| "Unknown device".to_owned());
            let is_this = Some(device.handle) == this;
            let _ = write!(
                self.main,
                r#"<li><div><b>{}</b>{}{}<small>since {}, last seen {}, ends in {}{}</small></div>"#,
                Text(&label),
                if is_this { " <span class=\"tag\">this device</span>" } else { "" },
                if device.remembered { " <span class=\"tag\">remembered</span>" } else { "" },
                devices::ago(device.created),
                devices::ago(device.last_seen),
                devices::rough(device.expires_in),
                if device.remembered { "" } else { " without a visit" },
            );
            if !is_this {
                let _ = write!(
                    self.main,
                    r#"<form method="post" action="/revoke"><input type="hidden" name="handle" value="{}"><button>Log out</button></form>"#,
                    device.handle
                );
            }
            self.main += "</li>\n";
        }
        self.main += r#"</ul>
<form method="post" action="/logout-everywhere" class="buttons">
<button name="keep" value="this">Log out on all other devices</button>
<button class="danger">Log out everywhere</button>
</form>
</section>
"#;
        self
    }

    /// What the user did lately.
    pub(super) fn activity(mut self, recent: &[Activity]) -> Self {
        self.main += "<section class=\"card\">\n<h2>Recent activity</h2>\n<ul class=\"rows\">\n";
        for activity in recent {
            let Ok(Event { what, on }) = activity.event() else { continue };
            let _ = writeln!(
                self.main,
                "<li><div>{} <small>{}, {}</small></div></li>",
                Text(what),
                Text(on),
                devices::ago(activity.at)
            );
        }
        self.main += "</ul>\n</section>\n";
        self
    }

    /// Says why somebody was not let in.
    pub(super) fn refused(refused: &Refused) -> Self {
        let main = format!("<p class=\"flash bad\" role=\"alert\">{}</p>\n{FORMS}", Text(refused));
        Self { main, footer: String::new() }
    }
}

fn flashed(messages: &[String]) -> String {
    let shown = |message| format!("<p class=\"flash\" role=\"status\">{}</p>\n", Text(message));
    messages.iter().map(shown).collect()
}

fn lives_in(backend: &Backend) -> String {
    format!("Sessions live in {}.", Text(backend))
}

impl IntoResponse for Page {
    fn into_response(self) -> Response {
        let Self { main, footer } = self;
        let page = format!(
            r#"<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>towerkeep accounts</title>
<link rel="stylesheet" href="/style.css">
<link rel="icon" href="data:,">
</head>
<body>
<header><h1>towerkeep <span>accounts</span></h1></header>
<main>
{main}</main>
<footer>{footer}</footer>
</body>
</html>
"#
        );
        Html(page).into_response()
    }
}
