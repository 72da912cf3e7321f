"""What the boards are made of: panels, variables and links, in one manner.

Built with Grafana's own SDK, whose types are generated from the schemas of Grafana (here of 11.3): what those don't
know can't be written, and mypy checks the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from grafana_foundation_sdk.builders import (
    bargauge,
    common,
    dashboard,
    prometheus,
    stat,
    statetimeline,
    table,
    timeseries,
)
from grafana_foundation_sdk.models import common as shapes
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from bootpoint_ops.monitoring.rule import DOCS

#: The data source that the boards' first variable chooses.
SOURCE = model.DataSourceRef(type_val="prometheus", uid="${source}")

#: A panel is this many of the 24 columns wide, and this many rows high.
QUARTER, THIRD, HALF, WHOLE = 6, 8, 12, 24
LOW, HIGH = 4, 8

#: Colours of what is well, what somebody should look at, and what is broken.
GOOD, DOUBTFUL, BAD, PLAIN = "green", "orange", "red", "blue"

AnyPanel: TypeAlias = timeseries.Panel | stat.Panel | table.Panel | bargauge.Panel | statetimeline.Panel

#: Values from which on a colour holds, after the colour of what lies below all of them.
Steps: TypeAlias = Sequence[tuple[float, str]]


def steps(base: str, *above: tuple[float, str]) -> dashboard.ThresholdsConfig:
    """Return thresholds: a colour, and the values from which on another one holds."""
    found = [model.Threshold(value=None, color=base)]
    found += [model.Threshold(value=value, color=color) for value, color in above]
    return dashboard.ThresholdsConfig().mode(model.ThresholdsMode.ABSOLUTE).steps(found)


def query(expression: str, legend: str = "") -> prometheus.Dataquery:
    """Return a query over the board's time."""
    return prometheus.Dataquery().expr(expression).legend_format(legend).range().datasource(SOURCE)


def now(expression: str, legend: str = "") -> prometheus.Dataquery:
    """Return a query at the end of the board's time."""
    return prometheus.Dataquery().expr(expression).legend_format(legend).instant().datasource(SOURCE)


def graph(title: str, text: str, unit: str, *targets: prometheus.Dataquery, width: int = HALF) -> timeseries.Panel:
    """Return lines over time.

    Args:
        title: What is seen.
        text: What it means, and when to worry.
        unit: Grafana's name of the unit.
        targets: The queries.
        width: In columns of 24.
    """
    made = (
        timeseries.Panel()
        .title(title)
        .description(text)
        .unit(unit)
        .datasource(SOURCE)
        .height(HIGH)
        .span(width)
        .min(0)
        .line_width(1)
        .fill_opacity(10)
        .show_points(shapes.VisibilityMode.NEVER)
        .legend(
            common.VizLegendOptions()
            .display_mode(shapes.LegendDisplayMode.LIST)
            .placement(shapes.LegendPlacement.BOTTOM)
            .show_legend(True)
            .calcs([])
        )
        .tooltip(common.VizTooltipOptions().mode(shapes.TooltipDisplayMode.MULTI).sort(shapes.SortOrder.DESCENDING))
    )
    for target in targets:
        made = made.with_target(target)
    return made


def limited(panel: timeseries.Panel, thresholds: dashboard.ThresholdsConfig) -> timeseries.Panel:
    """Draw the thresholds of a graph as lines."""
    line = common.GraphThresholdsStyleConfig().mode(shapes.GraphThresholdsStyleMode.DASHED)
    return panel.thresholds(thresholds).thresholds_style(line)


def number(
    title: str, text: str, unit: str, expression: str, thresholds: dashboard.ThresholdsConfig, *, width: int = QUARTER
) -> stat.Panel:
    """Return one number, in the colour of its threshold."""
    return (
        stat.Panel()
        .title(title)
        .description(text)
        .unit(unit)
        .datasource(SOURCE)
        .height(LOW)
        .span(width)
        .with_target(now(expression))
        .thresholds(thresholds)
        .color_mode(shapes.BigValueColorMode.BACKGROUND)
        .graph_mode(shapes.BigValueGraphMode.NONE)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
    )


def bars(
    title: str,
    text: str,
    unit: str,
    target: prometheus.Dataquery,
    thresholds: dashboard.ThresholdsConfig,
    *,
    top: float | None = None,
    width: int = HALF,
) -> bargauge.Panel:
    """Return a bar for each series of a query at the end of the time; ``top`` is the value of a full bar."""
    made = (
        bargauge.Panel()
        .title(title)
        .description(text)
        .unit(unit)
        .datasource(SOURCE)
        .height(HIGH)
        .span(width)
        .with_target(target)
        .thresholds(thresholds)
        .min(0)
        .orientation(shapes.VizOrientation.HORIZONTAL)
        .display_mode(shapes.BarGaugeDisplayMode.BASIC)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
    )
    return made if top is None else made.max(top)


def states(
    title: str, text: str, target: prometheus.Dataquery, words: dict[str, tuple[str, str]]
) -> statetimeline.Panel:
    """Return a band for each series; ``words`` are text and colour of each value."""
    options = {value: model.ValueMappingResult(text=word, color=color) for value, (word, color) in words.items()}
    return (
        statetimeline.Panel()
        .title(title)
        .description(text)
        .datasource(SOURCE)
        .height(HIGH)
        .span(WHOLE)
        .with_target(target)
        .mappings([model.ValueMap(options=options)])
        .show_value(shapes.VisibilityMode.NEVER)
        .merge_values(True)
        .row_height(0.8)
    )


def listing(
    title: str, text: str, columns: Sequence[tuple[str, str, str]], hidden: Sequence[str], *, width: int = WHOLE
) -> table.Panel:
    """Return a table with a row for each set of labels.

    Args:
        title: What is seen.
        text: What it means.
        columns: Name, unit and query of each column; the first one decides which rows there are.
        hidden: Labels and fields that aren't shown.
        width: In columns of 24.
    """
    made = table.Panel().title(title).description(text).datasource(SOURCE).height(HIGH + LOW).span(width)
    renamed: dict[str, str] = {}
    for position, (name, unit, expression) in enumerate(columns):
        letter = chr(ord("A") + position)
        made = made.with_target(now(expression).format(PromQueryFormat.TABLE).ref_id(letter))
        made = made.override_by_name(name, [model.DynamicConfigValue(id_val="unit", value=unit)])
        renamed[f"Value #{letter}" if len(columns) > 1 else "Value"] = name
    options = {"excludeByName": dict.fromkeys(["Time", *hidden], True), "renameByName": renamed}
    return made.with_transformation(model.DataTransformerConfig(id_val="merge", options={})).with_transformation(
        model.DataTransformerConfig(id_val="organize", options=options)
    )


def variable(name: str, label: str, metric: str, *, several: bool) -> dashboard.QueryVariable:
    """Return a variable whose values are those of a label of a metric; by default all where several may be chosen."""
    made = (
        dashboard.QueryVariable(name)
        .label(label)
        .datasource(SOURCE)
        .query(f"label_values({metric}, {name})")
        .refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(model.VariableSort.ALPHABETICAL_ASC)
        .multi(several)
        .include_all(several)
    )
    return made.all_value(".*") if several else made


def board(uid: str, title: str, text: str, variables: Sequence[dashboard.QueryVariable]) -> dashboard.Dashboard:
    """Return a board without panels: its variables, its links to the others and to the documentation."""
    made = (
        dashboard.Dashboard(title)
        .uid(uid)
        .description(text)
        .tags(["bootpoint"])
        .timezone("browser")
        .refresh("1m")
        .time("now-24h", "now")
        .readonly()
        .tooltip(model.DashboardCursorSync.CROSSHAIR)
        .with_variable(dashboard.DatasourceVariable("source").label("Prometheus").type("prometheus"))
        .link(
            dashboard.DashboardLink("Boards")
            .type(model.DashboardLinkType.DASHBOARDS)
            .tags(["bootpoint"])
            .keep_time(True)
            .include_vars(True)
            .as_dropdown(True)
        )
        .link(document("What the alerts mean", "alerts.md"))
    )
    for each in variables:
        made = made.with_variable(each)
    return made


def document(title: str, page: str) -> dashboard.DashboardLink:
    """Return a link to a page of the documentation."""
    link = dashboard.DashboardLink(title).type(model.DashboardLinkType.LINK).url(f"{DOCS}/{page}")
    return link.target_blank(True).icon("doc")


def filled(made: dashboard.Dashboard, rows: dict[str, list[AnyPanel]]) -> dashboard.Dashboard:
    """Put panels on a board, under the headings of their rows."""
    for title, panels in rows.items():
        made = made.with_row(dashboard.Row(title))
        for panel in panels:
            made = made.with_panel(panel)
    return made


#: What Grafana puts in place of a range: four scrapes at least, more where a day is drawn.
RATE = "$__rate_interval"

#: Shares of an objective that is used up: from here on soon late, late.
USED_UP = steps(GOOD, (0.75, DOUBTFUL), (1, BAD))

#: Nothing of this should ever be.
NONE = steps(GOOD, (1, BAD))

#: What a late replica is called in a band.
LATE_WORDS = {"0": ("young enough", GOOD), "1": ("too old", BAD)}
