package mdbweb

import (
	"fmt"
	"time"

	"github.com/google/uuid"
)

// The measures of a graph in pixels. The height of a row is that of the style sheet.
const (
	rowHeight = 56
	laneWidth = 22
	laneEdge  = 16
	bend      = 14
	maxLanes  = 14
)

// A graph is a flow, drawn with a lane for each stream and a row for each message, in the order in which they were written.
type graph struct {
	Rows          []graphRow
	Lanes         []lane
	Arrows        []arrow
	Width, Height int
}

// A graphRow is a message of a flow.
type graphRow struct {
	step

	Lane    int
	X, Y    int
	Self    bool
	Elapsed string // since the row before
	Text    string // what it is caused by, for those who do not see the graph
}

// A lane is a stream. Those that have no room share the last one.
type lane struct {
	Name     string
	Hue      int
	X        int
	From, To int
}

// An arrow goes from a cause to an effect.
type arrow struct {
	Path string
	Hue  int // that of the effect
	Self bool
}

func graphOf(f *flow, self uuid.UUID) *graph {
	g := &graph{Height: rowHeight * len(f.Steps)}
	lanes := make(map[string]int)
	rows := make(map[place]int)
	for i, s := range f.Steps {
		n, ok := lanes[s.Stream]
		if !ok {
			n = min(len(g.Lanes), maxLanes-1)
			lanes[s.Stream] = n
			if n == len(g.Lanes) {
				g.Lanes = append(g.Lanes, lane{Name: s.Stream, Hue: hue(n), X: laneEdge + laneWidth*n, From: rowHeight*i + rowHeight/2})
			}
		}
		row := graphRow{step: s, Lane: n, X: g.Lanes[n].X, Y: rowHeight*i + rowHeight/2, Self: s.ID == self}
		g.Lanes[n].To = row.Y
		if i > 0 {
			row.Elapsed = "+" + elapsed(s.Time.Sub(f.Steps[i-1].Time))
		}
		if s.Cause.Stream != "" {
			row.Text = fmt.Sprintf("caused by %s/%d", s.Cause.Stream, s.Cause.Position)
		}
		rows[s.place()] = i
		g.Rows = append(g.Rows, row)
	}
	for i := range g.Rows {
		effect := &g.Rows[i]
		if c, ok := rows[effect.Cause]; ok && c != i {
			cause := &g.Rows[c]
			g.Arrows = append(g.Arrows, arrow{Path: pathOf(cause, effect), Hue: hue(effect.Lane), Self: cause.Self || effect.Self})
		}
	}
	g.Width = 2*laneEdge + laneWidth*max(len(g.Lanes)-1, 0)
	return g
}

// pathOf goes down the lane of the cause and turns to the effect.
func pathOf(cause, effect *graphRow) string {
	if cause.X == effect.X {
		return fmt.Sprintf("M%d %dV%d", cause.X, cause.Y, effect.Y)
	}
	side := 1
	if effect.X < cause.X {
		side = -1
	}
	down := 1
	if effect.Y < cause.Y { // the metadata is somebody else's
		down = -1
	}
	return fmt.Sprintf("M%d %dV%dQ%d %d %d %dH%d", cause.X, cause.Y, effect.Y-down*bend, cause.X, effect.Y, cause.X+side*bend, effect.Y, effect.X)
}

// elapsed is age with more digits for short times.
func elapsed(d time.Duration) string {
	switch {
	case d < 0:
		return "0 ms" // transactions overlap
	case d >= time.Second && d < time.Minute:
		return fmt.Sprintf("%.1f s", d.Seconds())
	}
	return age(d)
}
