// The example orders with OpenTelemetry. Its parts are those of examples/orders. Each process runs some of the consumers,
// serves metrics for Prometheus at /metrics, and writes its spans to a file:
//
//	go run ./examples/orders -name shop -consumers checkout,order-list -address localhost:8080 -lag -spans shop.json
//	go run ./examples/orders -name payments -consumers cashier -address localhost:8081 -spans payments.json
//	curl -X PUT -d '{"customer": "ann", "cents": 500}' localhost:8080/orders/1
//
// A service of yours passes spans to the exporter of its tracing system, such as that of OTLP.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/exporters/prometheus"
	"go.opentelemetry.io/otel/exporters/stdout/stdouttrace"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/messagedb-go/messagedb/examples/orders/shop"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/consumer"
	"github.com/messagedb-go/messagedb/mdb/schema"
	"github.com/messagedb-go/messagedb/mdbotel"
)

type settings struct {
	url, name, consumers, address, spans string
	lag                                  bool
}

// start sets the global providers, which mdbotel uses. Stop exports the spans that are left.
func start(ctx context.Context, s settings) (stop func() error, err error) {
	file, err := os.Create(s.spans)
	if err != nil {
		return nil, err
	}
	spans, err1 := stdouttrace.New(stdouttrace.WithWriter(file))
	metrics, err2 := prometheus.New(prometheus.WithoutScopeInfo())
	service, err3 := resource.New(ctx, resource.WithAttributes(semconv.ServiceName(s.name)))
	if err := errors.Join(err1, err2, err3); err != nil {
		return nil, err
	}
	tracers := sdktrace.NewTracerProvider(sdktrace.WithBatcher(spans), sdktrace.WithResource(service))
	meters := metric.NewMeterProvider(metric.WithReader(metrics), metric.WithResource(service))
	otel.SetTracerProvider(tracers)
	otel.SetMeterProvider(meters)
	return func() error {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		return errors.Join(tracers.Shutdown(ctx), meters.Shutdown(ctx), file.Close())
	}, nil
}

// traced begins a span for each request. The package otelhttp does more.
func traced(next http.Handler) http.Handler {
	tracer := otel.Tracer("orders")
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx := propagation.TraceContext{}.Extract(r.Context(), propagation.HeaderCarrier(r.Header))
		ctx, span := tracer.Start(ctx, r.Method+" /orders/{id}", trace.WithSpanKind(trace.SpanKindServer))
		defer span.End()
		next.ServeHTTP(w, r.WithContext(ctx))
	})
}

func run(ctx context.Context, s settings) (err error) {
	stop, err := start(ctx, s)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	telemetry, err := mdbotel.New()
	if err != nil {
		return err
	}
	store, err := mdb.Connect(ctx, s.url, mdb.WithNotify(), mdb.WithHooks(telemetry.Hooks()...))
	if err != nil {
		return err
	}
	defer store.Close()
	if err := errors.Join(shop.Prepare(ctx, store), schema.InstallNotify(ctx, store.Pool())); err != nil {
		return err
	}
	consumers, err := consumersOf(store, s.consumers)
	if err != nil {
		return err
	}
	if err := observe(telemetry, store, consumers, s.lag); err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.Handle("/metrics", promhttp.Handler())
	mux.Handle("/", traced(shop.Handler(store)))
	return shop.Run(ctx, s.address, mux, consumers...)
}

func consumersOf(store *mdb.Store, names string) (consumers []*consumer.Consumer, err error) {
	for name := range strings.SplitSeq(names, ",") {
		made, ok := map[string]func(*mdb.Store) (*consumer.Consumer, error){
			"checkout": shop.Checkout, "cashier": shop.Cashier, "order-list": shop.List,
		}[name]
		if !ok {
			return nil, fmt.Errorf("no consumer %q", name)
		}
		c, err := made(store)
		if err != nil {
			return nil, err
		}
		consumers = append(consumers, c)
	}
	return consumers, nil
}

// observe adds the metrics of states. One process queries the lag of all consumers.
func observe(t *mdbotel.Telemetry, store *mdb.Store, consumers []*consumer.Consumer, lag bool) error {
	_, err1 := t.ObserveStore(store)
	_, err2 := t.ObserveConsumers(consumers...)
	var err3 error
	if lag {
		_, err3 = t.ObserveLag(consumer.Admin(store.Pool()), 15*time.Second)
	}
	return errors.Join(err1, err2, err3)
}

func main() {
	s := settings{url: os.Getenv("DATABASE_URL")}
	flag.StringVar(&s.name, "name", "orders", "the name of the service")
	flag.StringVar(&s.consumers, "consumers", "checkout,cashier,order-list", "the consumers that this process runs")
	flag.StringVar(&s.address, "address", "localhost:8080", "where customers, and Prometheus, are served")
	flag.StringVar(&s.spans, "spans", os.DevNull, "the file for spans")
	flag.BoolVar(&s.lag, "lag", false, "observe the lag of all consumers, in one of the processes")
	flag.Parse()
	if s.url == "" {
		log.Fatal("set DATABASE_URL to the URL of a database")
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	err := run(ctx, s)
	stopped := ctx.Err() != nil
	stop()
	if !stopped {
		log.Fatal(err)
	}
}
