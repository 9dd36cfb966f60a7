package mdbotel_test

import (
	"cmp"
	"context"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	otelprom "go.opentelemetry.io/otel/exporters/prometheus"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/consumer"
	"github.com/messagedb-go/messagedb/mdbotel"
	"github.com/messagedb-go/messagedb/mdbotel/internal/docs"
)

// everything returns a registry of Prometheus, and a reader, with a value of each metric.
func everything(t *testing.T) (*prometheus.Registry, *sdkmetric.ManualReader) {
	t.Helper()
	registry, reader := prometheus.NewRegistry(), sdkmetric.NewManualReader()
	exporter, err := otelprom.New(otelprom.WithRegisterer(registry), otelprom.WithoutScopeInfo(), otelprom.WithoutTargetInfo())
	if err != nil {
		t.Fatal(err)
	}
	telemetry, err := mdbotel.New(mdbotel.WithTracerProvider(noTracer()),
		mdbotel.WithMeterProvider(sdkmetric.NewMeterProvider(sdkmetric.WithReader(exporter), sdkmetric.WithReader(reader))))
	if err != nil {
		t.Fatal(err)
	}
	for _, hook := range telemetry.Hooks() {
		callAll(t.Context(), hook)
	}
	s := withConsumers.Store(t)
	c := handle(t, s, "billing", "order", consumer.Each(func(context.Context, mdb.Message) error { return nil }))
	_, err1 := telemetry.ObserveStore(s)
	_, err2 := telemetry.ObserveConsumers(c)
	_, err3 := telemetry.ObserveLag(consumer.Admin(s.Pool()), time.Hour)
	_, err4 := telemetry.ObserveReplica(withReplica(t, testdb.Pair(t)), time.Hour)
	if err := cmp.Or(err1, err2, err3, err4); err != nil {
		t.Fatal(err)
	}
	return registry, reader
}

// callAll calls each method of a hook that ends something.
func callAll(ctx context.Context, hook mdb.Hook) {
	m := mdb.Message{Stream: "order-1", Time: time.Now()}
	by := mdb.Subscriber{Consumer: "billing"}
	if h, ok := hook.(mdb.HookWriteCall); ok {
		h.OnWriteEnd(ctx, mdb.WriteCall{Method: "WriteMessage"}, time.Second, nil)
	}
	if h, ok := hook.(mdb.HookWrite); ok {
		h.OnWrite(ctx, mdb.WriteOutcome{Stream: "order-1", Messages: 1, Bytes: 1, Attempts: 2, Written: []mdb.Written{{ID: uuid.New()}}})
	}
	if h, ok := hook.(mdb.HookGroup); ok {
		h.OnGroupEnd(ctx, mdb.WriteGroup{Category: "order", Writes: 2}, time.Second, nil)
	}
	if h, ok := hook.(mdb.HookRead); ok {
		h.OnReadEnd(ctx, mdb.ReadCall{Method: "GetCategoryMessages", Category: "order"}, time.Second, mdb.ReadOutcome{Messages: 1, Bytes: 1})
	}
	if h, ok := hook.(mdb.HookHandle); ok {
		handling := mdb.Handling{Subscriber: by, Attempt: 1, Message: m}
		h.OnHandleEnd(h.OnHandleStart(ctx, handling), handling, time.Second, nil)
	}
	if h, ok := hook.(mdb.HookFailure); ok {
		h.OnFailure(mdb.FailedHandling{Subscriber: by, Message: m, Action: mdb.ActionPark})
	}
	if h, ok := hook.(mdb.HookRetry); ok {
		h.OnRetry(by, mdb.Retry{})
	}
	if h, ok := hook.(mdb.HookLive); ok {
		h.OnLive(by, true)
	}
	if h, ok := hook.(mdb.HookPartitions); ok {
		h.OnPartitions(by, []int{0})
	}
}

// exported returns the labels of each metric that Prometheus gets.
func exported(t *testing.T, registry *prometheus.Registry) map[string][]string {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	labels := make(map[string][]string)
	for _, family := range families {
		names := []string{}
		for _, label := range family.GetMetric()[0].GetLabel() {
			names = append(names, label.GetName())
		}
		labels[family.GetName()] = names
	}
	return labels
}

// TestMetricsAreDocumented checks that docs/production.md lists exactly the metrics that are exported, under both names, and with
// their attributes, and exactly the alarms of docs/alerts.yml.
func TestMetricsAreDocumented(t *testing.T) {
	t.Parallel()
	registry, reader := everything(t)
	var all metricdata.ResourceMetrics
	if err := reader.Collect(t.Context(), &all); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, scope := range all.ScopeMetrics {
		for _, m := range scope.Metrics {
			names = append(names, m.Name)
		}
	}
	labels := exported(t, registry)
	quoted := regexp.MustCompile("`([A-Za-z_.]+)`")
	var documented, alarms []string
	for _, row := range regexp.MustCompile("(?m)^\\| `(messagedb\\.[a-z._]+)` \\| `(messagedb_[a-z_]+)` \\| (.*?) ?\\| .* \\| (.*?) ?\\|$").
		FindAllStringSubmatch(docs.Read(t, "production.md"), -1) {
		documented = append(documented, row[1])
		got, ok := labels[row[2]]
		if !ok {
			t.Errorf("%s is not exported", row[2])
		}
		delete(labels, row[2])
		want := []string{}
		for _, label := range quoted.FindAllStringSubmatch(row[3], -1) {
			want = append(want, label[1])
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: the page has the attributes %q, want %q", row[1], want, got)
		}
		for _, alarm := range quoted.FindAllStringSubmatch(row[4], -1) {
			alarms = append(alarms, alarm[1])
		}
	}
	slices.Sort(names)
	slices.Sort(documented)
	if !slices.Equal(documented, names) {
		t.Errorf("the page has %q, want %q", documented, names)
	}
	if len(labels) > 0 {
		t.Errorf("the page lacks %q", slices.Sorted(maps.Keys(labels)))
	}
	var rules []string
	for _, rule := range regexp.MustCompile(`- alert: (\w+)`).FindAllStringSubmatch(docs.Read(t, "alerts.yml"), -1) {
		rules = append(rules, rule[1])
	}
	slices.Sort(alarms)
	slices.Sort(rules)
	if alarms = slices.Compact(alarms); !slices.Equal(alarms, rules) || len(rules) == 0 {
		t.Errorf("the page has the alarms %q, want %q", alarms, rules)
	}
}

// TestQueries checks that the queries of the dashboard and of the alarms use metrics that are exported, and labels that these have.
func TestQueries(t *testing.T) {
	t.Parallel()
	registry, _ := everything(t)
	labels := exported(t, registry)
	added := []string{"le", "instance"} // by histograms, and by Prometheus
	used := regexp.MustCompile(`\b(messagedb_\w+?)(_bucket|_sum|_count)?\b(\{[^}]*\})?`)
	for _, query := range append(docs.Queries(t), docs.Rules(t)...) {
		metrics := used.FindAllStringSubmatch(query, -1)
		if len(metrics) == 0 {
			t.Errorf("%s has no metric", query)
		}
		var grouped []string
		for _, by := range regexp.MustCompile(`\b(?:by|on) \(([a-z_, ]+)\)`).FindAllStringSubmatch(query, -1) {
			grouped = append(grouped, strings.Split(by[1], ", ")...)
		}
		for _, m := range metrics {
			has, ok := labels[m[1]]
			if !ok {
				t.Errorf("%s: %s is not exported", query, m[1])
			}
			wants := slices.Clone(grouped)
			for _, label := range regexp.MustCompile(`(\w+)=`).FindAllStringSubmatch(m[3], -1) {
				wants = append(wants, label[1])
			}
			for _, label := range wants {
				if !slices.Contains(has, label) && !slices.Contains(added, label) {
					t.Errorf("%s: %s has no label %s", query, m[1], label)
				}
			}
		}
	}
}
