package main

import (
	"fmt"
	"io"
	"strings"
	"time"
)

// A progress is a bar on a terminal.
type progress struct {
	w     io.Writer // nil: not on a terminal
	drawn bool
	last  time.Time
}

// progress returns a bar on the standard error, which is only drawn if that is a terminal.
func (a *app) progress() *progress {
	if !isTerminal(a.stderr) || a.env("TERM") == "dumb" {
		return &progress{}
	}
	return &progress{w: a.stderr, last: time.Now()}
}

const (
	barWidth = 30
	barEvery = 100 * time.Millisecond
)

// show draws the bar. The part that is done is less than 0 if it is unknown.
func (p *progress) show(part float64, text string) {
	if p.w == nil || time.Since(p.last) < barEvery {
		return
	}
	p.drawn, p.last = true, time.Now()
	bar := ""
	if part >= 0 {
		full := int(min(part, 1) * barWidth)
		bar = fmt.Sprintf("[%s%s] %3d %%  ", strings.Repeat("#", full), strings.Repeat(" ", barWidth-full), int(min(part, 1)*100))
	}
	_, _ = fmt.Fprintf(p.w, "\r\x1b[K%s%s", bar, text) // nothing depends on the bar
}

// end removes the bar.
func (p *progress) end() {
	if p.drawn {
		_, _ = io.WriteString(p.w, "\r\x1b[K")
	}
}

// share returns how much of the whole a part is, for show.
func share(part, whole int64) float64 {
	if whole <= 0 {
		return -1
	}
	return float64(part) / float64(whole)
}
