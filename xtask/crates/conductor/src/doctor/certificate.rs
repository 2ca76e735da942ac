//! How many certificates a PEM file holds, and how many of them are valid at a time: enough to say why TLS fails.
//!
//! Never: decides whom to trust. Rules: RFC 7468 (PEM), RFC 5280 section 4.1 (where the validity stands).

use protocol::coding::base64_decoded;

/// Certificates in `pem`, and those that have not ended at `now`, in seconds since 1970. What cannot be read counts as ended.
pub fn count(pem: &str, now_seconds: u64) -> (usize, usize) {
    let now = timestamp(now_seconds);
    let blocks = pem.split("-----BEGIN CERTIFICATE-----").skip(1);
    let ends = blocks.map(|block| not_after(&decoded(block.split("-----END").next()?)?));
    ends.fold((0, 0), |(all, valid), end| (all + 1, valid + usize::from(end.is_some_and(|end| end > now))))
}

fn decoded(lines: &str) -> Option<Vec<u8>> {
    base64_decoded(&lines.split_ascii_whitespace().collect::<String>())
}

/// The next DER value: tag, content, what follows.
fn value(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        _ => {
            let (digits, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            let length =
                digits.iter().try_fold(0_usize, |sum, digit| sum.checked_mul(256)?.checked_add((*digit).into()));
            (length?, rest)
        }
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

/// `notAfter` as `YYYYMMDDHHMMSSZ`, which sorts as time does.
fn not_after(der: &[u8]) -> Option<String> {
    let (_, certificate, _) = value(der)?;
    let (_, mut body, _) = value(certificate)?;
    // The version, which is optional, then serial number, signature algorithm and issuer.
    if body.first() == Some(&0xa0) {
        body = value(body)?.2;
    }
    for _ in 0..3 {
        body = value(body)?.2;
    }
    let (_, validity, _) = value(body)?;
    let (_, _, rest) = value(validity)?;
    let (tag, text, _) = value(rest)?;
    let text = std::str::from_utf8(text).ok()?;
    // UTCTime has two digits of the year: 50 and more are of the last century.
    Some(match tag {
        0x17 if text < "50" => format!("20{text}"),
        0x17 => format!("19{text}"),
        _ => text.to_owned(),
    })
}

/// Source: Howard Hinnant, "chrono-compatible low-level date algorithms", `civil_from_days`.
fn timestamp(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let (day, month) = (of_year - (153 * shifted + 2) / 5 + 1, if shifted < 10 { shifted + 3 } else { shifted - 9 });
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}{month:02}{day:02}{:02}{:02}{:02}Z", rest / 3600, rest / 60 % 60, rest % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=x -days 1`, made on 2026-11-23.
    const ONE_DAY: &str = "-----BEGIN CERTIFICATE-----\n\
        MIIBbTCCAROgAwIBAgIUBW4veQwd1QZ5teDOm34hGw/YnAwwCgYIKoZIzj0EAwIw\n\
        DDEKMAgGA1UEAwwBeDAeFw0yNjExMjMxNDMyMjJaFw0yNjExMjQxNDMyMjJaMAwx\n\
        CjAIBgNVBAMMAXgwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAARiMI2oVlyZP9Jx\n\
        ee2RCG/baxw+OYp9969dMGgFxBaqVoIlv0fHEcZeXA04ozt2PaUNySbooq372Gwi\n\
        JzLis92Io1MwUTAdBgNVHQ4EFgQUbFR0hSlAmQ1i9fumkuRvYWc5EzEwHwYDVR0j\n\
        BBgwFoAUbFR0hSlAmQ1i9fumkuRvYWc5EzEwDwYDVR0TAQH/BAUwAwEB/zAKBggq\n\
        hkjOPQQDAgNIADBFAiEAiAtCrauVWgUg6YJXJv+DyT9hMma+u7BPZIRrbuHafoIC\n\
        IFdTfR52BzdUIHD2bA/MCcdUhQ4gMH0pr1Oy9gEToAMG\n\
        -----END CERTIFICATE-----\n";

    #[test]
    fn a_time_is_written_as_certificates_write_it() {
        for (seconds, text) in
            [(0, "19700101000000Z"), (951_782_400, "20000229000000Z"), (1_795_444_200, "20261123143000Z")]
        {
            assert_eq!(timestamp(seconds), text);
        }
    }

    #[test]
    fn a_certificate_is_valid_until_its_end() {
        let end = 1_795_530_742;
        assert_eq!(count(ONE_DAY, end - 1), (1, 1));
        assert_eq!(count(ONE_DAY, end), (1, 0));
        assert_eq!(count(&ONE_DAY.repeat(3), end - 1), (3, 3));
        assert_eq!(count("# no certificate\n", end), (0, 0));
        assert_eq!(count(&ONE_DAY.replace("MII", "@II"), end - 1), (1, 0));
    }
}
