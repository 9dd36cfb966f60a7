// Package mdbotel makes spans and metrics of a store, its subscriptions and its consumers with OpenTelemetry.
//
// [New] returns a [Telemetry], whose hooks a store takes:
//
//	telemetry, err := mdbotel.New()
//	store, err := mdb.Connect(ctx, url, mdb.WithHooks(telemetry.Hooks()...))
//
// It uses the global providers unless options name others. Without an SDK these do nothing.
//
// # Spans
//
// They have the names and attributes of OpenTelemetry's semantic conventions for messaging, in which the system is
// messagedb and the template of the destination is the category.
//
//	publish CATEGORY     a call that writes. That of WriteEach has no category.
//	Atomically           a transaction. What it writes has spans of its own.
//	group CATEGORY       the transaction of a group of writes, with links to their calls
//	receive CATEGORY     a read of messages; of a subscription or a consumer only if there are some, or an error
//	StreamVersion, …     another read, by its method
//	process CATEGORY     a call of a handler
//
// The tracer of the pool's connections, such as otelpgx, makes spans of statements in them.
//
// # Trace context
//
// Each message that is written in a trace gets the W3C trace context in its metadata: the key traceparent, and
// tracestate if there is one, with the values that the headers of HTTP requests have. Clients in other languages can read
// and write the same keys. They belong to one message: [mdb.Metadata.Follow] does not pass them on.
//
// The span of a handler continues the trace of its message if that was written within the last hour, see
// [ContinueWithin]. Otherwise it begins a trace, or is in that of the subscription's context, and has a link to the span that
// has written the message, so that a projection that is rebuilt does not add to old traces. The span of a batch has links to the
// spans that have written its messages.
//
// The context of a handler contains its span, so writes with this context are in the same trace.
//
// # Metrics
//
// Hooks count and measure writes, reads and handlers. What is a state, and not an event, is observed:
// [Telemetry.ObserveStore] adds the state of notifications, [Telemetry.ObserveConsumers] that of consumers in this process, and
// [Telemetry.ObserveLag] how far all consumers are, which takes queries. docs/production.md in the repository lists all
// metrics.
//
// Categories are attributes of metrics. If there are very many of them, drop the attribute category by a view of the SDK.
//
// # Confidentiality
//
// Spans and metrics contain no payloads. They contain the type of the error of a handler, and its text only with
// [WithErrorTexts], because it may contain parts of a message.
package mdbotel
