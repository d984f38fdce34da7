//! DNS64, asked with dig by the IPv6-only client.

use super::super::topology::{NATIVE, SERVER, in_pref64};
use super::{Finding, client, expect};

const SECONDS: u64 = 20;

fn short(question: &str) -> Finding {
    client(&format!("dig +short +tries=2 +time=7 {question}"), SECONDS)
}

fn exactly(question: &str, wanted: &str) -> Finding {
    let answer = short(question)?;
    let lines: Vec<&str> = answer
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    if lines == [wanted] {
        Ok(format!("{question} is {wanted}"))
    } else {
        Err(format!("{question}: expected {wanted}, found {lines:?}"))
    }
}

pub(super) fn synthesised() -> Finding {
    exactly("AAAA v4only.lab.test", &in_pref64(SERVER).to_string())
}

pub(super) fn alias() -> Finding {
    let answer = short("AAAA www.lab.test")?;
    expect(&answer, "v4only.lab.test.")?;
    expect(&answer, &in_pref64(SERVER).to_string())?;
    Ok("the CNAME and the AAAA".into())
}

pub(super) fn real() -> Finding {
    exactly("AAAA dual.lab.test", &NATIVE.to_string())
}

pub(super) fn mapped() -> Finding {
    exactly("AAAA mapped.lab.test", &in_pref64(SERVER).to_string())
}

pub(super) fn negative() -> Finding {
    for (name, wanted) in [
        ("absent", "status: NXDOMAIN"),
        ("nodata", "status: NOERROR"),
    ] {
        let answer = client(
            &format!("dig +tries=2 +time=7 AAAA {name}.lab.test"),
            SECONDS,
        )?;
        expect(&answer, wanted)?;
        expect(&answer, "ANSWER: 0")?;
    }
    Ok("both with an empty answer".into())
}

pub(super) fn over_tcp() -> Finding {
    exactly("+tcp AAAA v4only.lab.test", &in_pref64(SERVER).to_string())
}
