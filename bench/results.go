package main

import (
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/perf/benchfmt"
)

// samplesFile contains the results in the format of go test -bench. benchstat compares
// two of them:
//
//	benchstat -table case OLD/samples.txt NEW/samples.txt
const samplesFile = "samples.txt"

// results are a run's samples and the facts that they depend on.
type results struct {
	facts   []fact
	samples []sample
}

// A fact is a configuration line of the format.
type fact struct{ key, value string }

func (r results) fact(key string) string {
	for _, f := range r.facts {
		if f.key == key {
			return f.value
		}
	}
	return ""
}

// The configuration lines that are about a variant and not about the run.
const (
	caseKey     = "case"
	messagesKey = "messages"
	variantKey  = "variant"
)

const (
	serverUnit = "server-ns/op"
	medianUnit = "median-ns/op" // of a case with several workers
)

func writeResults(file string, r results) error {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	return errors.Join(encodeResults(f, r), f.Close())
}

// encodeResults writes a line for each round of a variant.
func encodeResults(w io.Writer, r results) error {
	out := benchfmt.NewWriter(w)
	for _, s := range rounds(r.samples) {
		record := &benchfmt.Result{}
		facts := append(slices.Clone(r.facts), fact{caseKey, s.Case}, fact{messagesKey, strconv.Itoa(s.Messages)}, fact{variantKey, s.Variant})
		for _, f := range facts {
			record.Config = append(record.Config, benchfmt.Config{Key: f.key, Value: []byte(f.value), File: true})
		}
		s.record(record)
		record.Values = append(record.Values, benchfmt.Value{Value: math.Round(s.ServerNsPerOp), Unit: serverUnit})
		if s.MedianNs > 0 {
			record.Values = append(record.Values, benchfmt.Value{Value: math.Round(s.MedianNs), Unit: medianUnit})
		}
		if err := out.Write(record); err != nil {
			return err
		}
	}
	return nil
}

// record adds the sample's name and values to a result.
func (s sample) record(r *benchfmt.Result) {
	r.Name, r.Iters = benchfmt.Name(benchmarkName(s.Case)+"/"+benchmarkName(s.Variant)), s.Ops
	r.Values = []benchfmt.Value{{Value: math.Round(s.NsPerOp), Unit: "ns/op"}}
	if !s.Outside {
		r.Values = append(r.Values,
			benchfmt.Value{Value: math.Round(s.BytesPerOp), Unit: "B/op"},
			benchfmt.Value{Value: math.Round(s.AllocsPerOp), Unit: "allocs/op"})
	}
}

var notInNames = regexp.MustCompile(`[^A-Za-z0-9]+`)

// benchmarkName returns a name without spaces. scripts/bench-compare compares benchmarks
// of two commits by these names.
func benchmarkName(name string) string {
	return strings.Trim(notInNames.ReplaceAllString(name, "_"), "_")
}

// appendTurns writes a line for each turn, without configuration, as older commits do.
func appendTurns(file string, samples []sample) error {
	f, err := os.OpenFile(file, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	out := benchfmt.NewWriter(f)
	for _, s := range samples {
		record := new(benchfmt.Result)
		s.record(record)
		if err := out.Write(record); err != nil {
			return errors.Join(err, f.Close())
		}
	}
	return f.Close()
}

func readResults(file string) (results, error) {
	f, err := os.Open(file)
	if err != nil {
		return results{}, err
	}
	defer f.Close() //nolint:errcheck // it was only read
	return decodeResults(f, file)
}

// decodeResults reads what encodeResults writes. The lines of a variant are its rounds,
// in their order.
func decodeResults(in io.Reader, name string) (r results, err error) {
	lines := benchfmt.NewReader(in, name)
	seen := make(map[string]int)
	for lines.Scan() {
		record, ok := lines.Result().(*benchfmt.Result)
		if !ok {
			continue
		}
		if r.facts == nil {
			for _, c := range record.Config {
				if key := c.Key; c.File && key != caseKey && key != messagesKey && key != variantKey {
					r.facts = append(r.facts, fact{key, string(c.Value)})
				}
			}
		}
		s := sample{
			Case: record.GetConfig(caseKey), Variant: record.GetConfig(variantKey), Ops: record.Iters,
			Round: seen[string(record.Name)],
		}
		seen[string(record.Name)]++
		if s.Messages, err = strconv.Atoi(record.GetConfig(messagesKey)); err != nil {
			return results{}, fmt.Errorf("%s: messages of %s: %w", name, record.Name, err)
		}
		// The reader converts ns/op to sec/op.
		for _, v := range record.Values {
			unit, value := v.Unit, v.Value
			if v.OrigUnit != "" {
				unit, value = v.OrigUnit, v.OrigValue
			}
			switch unit {
			case "ns/op":
				s.NsPerOp = value
			case "B/op":
				s.BytesPerOp = value
			case "allocs/op":
				s.AllocsPerOp = value
			case serverUnit:
				s.ServerNsPerOp = value
			case medianUnit:
				s.MedianNs = value
			}
		}
		_, counted := record.Value("allocs/op")
		s.Outside = !counted
		r.samples = append(r.samples, s)
	}
	if err := lines.Err(); err != nil {
		return results{}, err
	}
	if len(r.samples) == 0 {
		return results{}, fmt.Errorf("%s contains no results", name)
	}
	return r, nil
}

// rounds merges the turns of each round, whose number of operations is the same.
func rounds(samples []sample) []sample {
	var merged []sample
	type key struct {
		inCase, variant string
		round           int
	}
	turns := make(map[key]float64)
	index := make(map[key]int)
	for _, s := range samples {
		k := key{s.Case, s.Variant, s.Round}
		i, ok := index[k]
		if !ok {
			index[k], turns[k] = len(merged), 1
			merged = append(merged, s)
			continue
		}
		m := &merged[i]
		turns[k]++
		mean := func(sum *float64, value float64) { *sum += (value - *sum) / turns[k] }
		m.Ops += s.Ops
		mean(&m.NsPerOp, s.NsPerOp)
		mean(&m.AllocsPerOp, s.AllocsPerOp)
		mean(&m.BytesPerOp, s.BytesPerOp)
		mean(&m.ServerNsPerOp, s.ServerNsPerOp)
		mean(&m.MedianNs, s.MedianNs)
	}
	return merged
}

// cpuModel returns the processor's name.
func cpuModel() string {
	if data, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		if m := regexp.MustCompile(`(?m)^model name\s*: (.*)$`).FindSubmatch(data); m != nil {
			return string(m[1])
		}
	}
	return runtime.GOARCH
}
