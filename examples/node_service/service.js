// A service in another language: the stock OpenTelemetry SDK sends an outcome event to a Collector over OTLP.
// The names come from schema.json, written by `caseyos-otel events schema outcome_reply_received`; nothing else is ours.
import { readFile } from 'node:fs/promises';
import { SeverityNumber } from '@opentelemetry/api-logs';
import { OTLPLogExporter } from '@opentelemetry/exporter-logs-otlp-proto';
import { resourceFromAttributes } from '@opentelemetry/resources';
import { BatchLogRecordProcessor, LoggerProvider } from '@opentelemetry/sdk-logs';

const schema = JSON.parse(await readFile(new URL('schema.json', import.meta.url), 'utf8'));

const provider = new LoggerProvider({
  resource: resourceFromAttributes({ 'service.name': 'node-service' }),
  processors: [new BatchLogRecordProcessor({ exporter: new OTLPLogExporter() })], // where to: OTEL_EXPORTER_OTLP_ENDPOINT
});
const logger = provider.getLogger('node-service');

/** An event of the schema, its fields by their flat names. An undeclared field is a mistake in this program. */
function track(fields) {
  const attributes = Object.entries(fields).map(([name, value]) => {
    const declared = schema.properties[name]?.['x-otel-name'];
    if (declared === undefined) throw new TypeError(`${schema.title} has no field ${name}`);
    return [declared, value];
  });
  logger.emit({
    eventName: schema['x-otel-name'],
    severityNumber: SeverityNumber.INFO,
    timestamp: Date.now(), // left out, it would be 1970
    attributes: Object.fromEntries(attributes),
  });
}

const [draft = 'draft-from-node'] = process.argv.slice(2);
track({ draft_id: draft, recipient: 'john@acme.example', reply_sentiment: 'positive', time_to_reply_hours: 2.5 });
await provider.shutdown(); // sends what waits
