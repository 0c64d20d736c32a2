//! [`Statistics`] in Prometheus' text format (version 0.0.4).

use std::fmt::Write;

use trapline_control::api::Statistics;

/// The media type of the format.
pub const MEDIA_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The whole text. Labels are names of regions, of registers that are counted, and of kinds: as many as
/// the guest has devices, and at most 2048 registers; no address of an unclaimed access is among them.
pub fn text(name: &str, statistics: &Statistics) -> String {
    let mut text = Text(String::new());
    let guest = [("guest", name)];
    text.family("trapline_guest_info", "gauge", "The guest.");
    text.sample("trapline_guest_info", &guest, 1.0);
    text.family("trapline_uptime_seconds", "gauge", "How long the program has been running.");
    text.sample("trapline_uptime_seconds", &[], seconds(statistics.uptime_ns));
    text.family("trapline_vcpus", "gauge", "vCPUs.");
    text.sample("trapline_vcpus", &[], f64::from(statistics.vcpu_count));
    text.family("trapline_resets_total", "counter", "Resets of the guest.");
    text.sample("trapline_resets_total", &[], f64::from(statistics.resets));
    text.family("trapline_exits_total", "counter", "Returns of vCPUs from the guest, by kind.");
    for (kind, count) in &statistics.exits {
        text.sample("trapline_exits_total", &[("kind", kind)], float(*count));
    }
    regions(&mut text, statistics);
    text.family("trapline_unclaimed_total", "counter", "Accesses that no device answered.");
    let unclaimed = statistics.unclaimed.iter().map(|one| one.count).sum::<u64>();
    text.sample("trapline_unclaimed_total", &[], float(unclaimed + statistics.unclaimed_others));
    registers(&mut text, statistics);
    text.0
}

fn regions(text: &mut Text, statistics: &Statistics) {
    const ACCESSES: &str = "trapline_accesses_total";
    text.family(ACCESSES, "counter", "Accesses to a region of a device.");
    for region in &statistics.regions {
        let kinds = [
            ("read", region.reads),
            ("write", region.writes - region.queued.min(region.writes)),
            ("queued", region.queued),
            ("string_read", region.string_reads),
            ("string_write", region.string_writes),
        ];
        for (kind, count) in kinds.into_iter().filter(|(_, count)| *count > 0) {
            let labels = [("region", region.region.as_str()), ("kind", kind)];
            text.sample(ACCESSES, &labels, float(count));
        }
    }
    const REFUSED: &str = "trapline_refused_total";
    text.family(
        REFUSED,
        "counter",
        "Accesses of a width or alignment that the region does not take.",
    );
    for region in statistics.regions.iter().filter(|region| region.refused > 0) {
        text.sample(REFUSED, &[("region", &region.region)], float(region.refused));
    }
}

fn registers(text: &mut Text, statistics: &Statistics) {
    let rows = || statistics.registers.iter().filter(|row| row.device != "unclaimed");
    const ACCESSES: &str = "trapline_register_accesses_total";
    text.family(ACCESSES, "counter", "Accesses to a register, while they are counted.");
    for row in rows() {
        for (kind, count) in [("read", row.reads), ("write", row.writes)] {
            if count > 0 {
                let (region, register) = (row.region.as_str(), row.register.as_str());
                let labels = [("region", region), ("register", register), ("kind", kind)];
                text.sample(ACCESSES, &labels, float(count));
            }
        }
    }
    const TIME: &str = "trapline_handler_seconds";
    text.family(TIME, "summary", "What accesses to a register took, one in 64.");
    for row in rows().filter(|row| row.timed > 0) {
        let labels = [("region", row.region.as_str()), ("register", row.register.as_str())];
        text.sample("trapline_handler_seconds_sum", &labels, seconds(row.timed_ns));
        text.sample("trapline_handler_seconds_count", &labels, float(row.timed));
    }
}

#[expect(clippy::cast_precision_loss, reason = "Prometheus' numbers are such")]
fn float(count: u64) -> f64 {
    count as f64
}

fn seconds(ns: u64) -> f64 {
    float(ns) / 1e9
}

struct Text(String);

impl Text {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        self.0 += name;
        for (at, (label, value)) in labels.iter().enumerate() {
            let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let _ = write!(self.0, "{}{label}=\"{value}\"", if at == 0 { '{' } else { ',' });
        }
        let end = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.0, "{end} {value}");
    }
}
