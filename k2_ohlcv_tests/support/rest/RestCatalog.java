import java.net.InetSocketAddress;
import java.util.HashMap;
import java.util.Map;
import java.util.Properties;
import org.apache.iceberg.CatalogUtil;
import org.apache.iceberg.catalog.Catalog;
import org.apache.iceberg.rest.RESTCatalogAdapter;
import org.apache.iceberg.rest.RESTCatalogServlet;
import org.eclipse.jetty.server.Server;
import org.eclipse.jetty.servlet.ServletContextHandler;
import org.eclipse.jetty.servlet.ServletHolder;

/**
 * Serves an Iceberg catalog over REST, for tests: `java RestCatalog.java HOST PORT`. The properties of the catalog
 * behind it come from standard input, one `name=value` a line. Requests are not authenticated.
 */
public final class RestCatalog {
  private RestCatalog() {}

  public static void main(String[] arguments) throws Exception {
    Server server = new Server(new InetSocketAddress(arguments[0], Integer.parseInt(arguments[1])));
    ServletContextHandler root = new ServletContextHandler();
    root.addServlet(new ServletHolder(new RESTCatalogServlet(new RESTCatalogAdapter(openCatalog()))), "/*");
    server.setHandler(root);
    server.start();
    server.join();
  }

  private static Catalog openCatalog() throws Exception {
    Properties lines = new Properties();
    lines.load(System.in);
    Map<String, String> properties = new HashMap<>();
    lines.stringPropertyNames().forEach(name -> properties.put(name, lines.getProperty(name)));
    return CatalogUtil.buildIcebergCatalog("behind", properties, null);
  }
}
