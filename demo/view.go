package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/charmbracelet/x/ansi"
)

// A line of the screen. Where there is no room for all of them, the first ones of the
// highest rank are left out.
type line struct {
	rank int
	text string
}

// The ranks.
const (
	rankTitle = iota
	rankScene
	rankFigures
	rankEvents
	rankHint
	rankNote
	rankScenes
	rankIntro
	rankBlank
	rankOutcome
)

// render draws the state within the size.
func render(s State, width, height int) string {
	lines := slices.Concat(header(s, width), scenes(s), table(s, width), footer(s))
	lines = fit(lines, height)
	texts := make([]string, len(lines))
	for i, l := range lines {
		texts[i] = ansi.Truncate(l.text, max(0, width), "…")
	}
	return strings.Join(texts, "\n")
}

// fit leaves lines out until there are no more than height.
func fit(lines []line, height int) []line {
	lines = slices.Clone(lines)
	for len(lines) > max(0, height) {
		worst := 0
		for i, l := range lines {
			if l.rank > lines[worst].rank {
				worst = i
			}
		}
		lines = slices.Delete(lines, worst, worst+1)
	}
	return lines
}

func header(s State, width int) []line {
	left := bold("Message DB demo") + " · " + s.Server
	clock := fmt.Sprintf("%.0f of %.0f s", min(s.Elapsed, s.Length).Seconds(), s.Length.Seconds())
	left = ansi.Truncate(left, max(0, width-len(clock)-1), "…")
	gap := max(1, width-ansi.StringWidth(left)-len(clock))
	lines := []line{{rankTitle, left + strings.Repeat(" ", gap) + clock}}
	for _, text := range intro {
		lines = append(lines, line{rankIntro, dim(text)})
	}
	return append(lines, line{rankBlank, ""})
}

// scenes lists the scenes, with what happens in the one that is running.
func scenes(s State) []line {
	var lines []line
	for i, scene := range s.Scenes {
		title := fmt.Sprintf("%d %s", i+1, scene.Title)
		switch scene.Status {
		case Pending:
			lines = append(lines, line{rankScenes, dim("  " + title)})
		case Done:
			lines = append(lines, line{rankScenes, green("✓ ") + title})
			if scene.Outcome != "" {
				lines = append(lines, line{rankOutcome, dim("    " + scene.Outcome)})
			}
		case Skipped:
			lines = append(lines, line{rankScenes, dim("- " + title)})
		case Running:
			lines = append(lines, line{rankScene, yellow("▸ ") + bold(title)})
			for _, text := range scene.Lines {
				lines = append(lines, line{rankEvents, "    " + text})
			}
			lines = append(lines, line{rankBlank, ""})
		}
	}
	return append(lines, line{rankBlank, ""})
}

// row prints the cells that the width has room for.
func row(width int, name string, cells ...string) string {
	text := fmt.Sprintf("%-21s", name)
	for _, cell := range cells {
		if len(text)+10 > width {
			break
		}
		text += fmt.Sprintf("%10s", cell)
	}
	return text
}

func table(s State, width int) []line {
	lines := []line{{rankFigures, dim(row(width, "the last 2 s", "p50", "p99", "a second", "total", "waiting"))}}
	for _, r := range s.Rows {
		waiting := ""
		if r.Waiting >= 0 {
			waiting = count(r.Waiting)
		}
		lines = append(lines, line{rankFigures, row(width, r.Name, latency(r.P50), latency(r.P99),
			fmt.Sprintf("%.0f", r.PerSecond), count(r.Total), waiting)})
	}
	conflicts := fmt.Sprintf("%s conflicts: two writers wanted one account, and one of them decided again", count(s.Conflicts))
	return append(lines, line{rankNote, dim(conflicts)}, line{rankNote, yellow(s.Note)})
}

func footer(s State) []line {
	hint := "Ctrl-C ends the demo now, with the proof."
	if s.Interrupted {
		hint = "Ctrl-C once more leaves out the proof."
	}
	return []line{{rankHint, dim(hint)}}
}

// summary is what remains on the terminal.
func summary(s State) string {
	var b strings.Builder
	after := ""
	if s.Interrupted {
		after = fmt.Sprintf(" · Ctrl-C after %s", seconds(s.Elapsed.Truncate(100*time.Millisecond)))
	}
	fmt.Fprintf(&b, "%s · %s%s\n\n", bold("Message DB demo"), s.Server, after)
	for i, scene := range s.Scenes {
		title := fmt.Sprintf("%d %s", i+1, scene.Title)
		if scene.Status == Skipped {
			fmt.Fprintf(&b, "%s\n", dim("- "+title+": not shown to the end"))
			continue
		}
		fmt.Fprintf(&b, "%s%s\n", green("✓ "), title)
		if scene.Outcome != "" {
			fmt.Fprintf(&b, "    %s\n", scene.Outcome)
		}
	}
	b.WriteString(proof(s))
	return b.String()
}

// proof lists the checks, what was removed, and the verdict.
func proof(s State) string {
	var b strings.Builder
	for _, c := range s.Proof {
		mark := green("✓")
		if !c.OK {
			mark = red("✗")
		}
		fmt.Fprintf(&b, "  %s %-11s %s\n", mark, c.What, c.Text)
	}
	if len(s.Removed) > 0 {
		fmt.Fprintf(&b, "  %s %-11s %s\n", green("✓"), "removed", strings.Join(s.Removed, ", "))
	}
	if proved(s) {
		fmt.Fprintf(&b, "\n%s\n", bold("proved: nothing was lost and nothing was handled twice"))
	} else {
		fmt.Fprintf(&b, "\n%s\n", red("not proved: see the lines marked with ✗"))
	}
	return b.String()
}

func proved(s State) bool {
	return len(s.Proof) > 0 && !slices.ContainsFunc(s.Proof, func(c Check) bool { return !c.OK })
}

func bold(s string) string   { return style("1", s) }
func dim(s string) string    { return style("2", s) }
func red(s string) string    { return style("31", s) }
func green(s string) string  { return style("32", s) }
func yellow(s string) string { return style("33", s) }

func style(code, s string) string {
	if s == "" {
		return ""
	}
	return "\x1b[" + code + "m" + s + "\x1b[m"
}
