"use strict";

// Starts `mserve lsp`, shows plans, runs tests. Highlighting and snippets need none of this.

const { execFile } = require("node:child_process");
const path = require("node:path");
const vscode = require("vscode");

// Code lenses of the server carry these commands; what they do is the client's business.
const PLAN = "mserve.plan"; // [uri, route or null]
const TEST = "mserve.test"; // [uri, title or null]
const MAX_PAGE_BYTES = 64 * 1024 * 1024;

let server;

function activate(context) {
  const plans = new Plans();
  server = new Server(context.extensionPath, (command, args) => run(command, args, plans));
  context.subscriptions.push(
    vscode.commands.registerCommand("mserve.showPlan", (uri) => run(PLAN, [uri], plans)),
    vscode.commands.registerCommand("mserve.runTests", (uri) => run(TEST, [uri], plans)),
    vscode.commands.registerCommand("mserve.restartServer", () => server.restart()),
    vscode.workspace.onDidSaveTextDocument((document) => plans.refresh(document.uri)),
    vscode.workspace.onDidGrantWorkspaceTrust(() => server.restart()),
    vscode.workspace.onDidChangeConfiguration((change) =>
      change.affectsConfiguration("mserve.path") ? server.restart() : undefined
    )
  );
  server.restart(); // not awaited: the commands work without it
}

async function deactivate() {
  await server?.stop();
}

// --- commands ------------------------------------------------------------------------------------

async function run(command, args, plans) {
  const uri = await savedFile(args[0]);
  if (uri === undefined) {
    vscode.window.showInformationMessage("Mserve: open a .mserve file first, and save it.");
  } else if (command === PLAN) {
    await plans.show(uri);
  } else {
    await runTests(uri);
  }
}

// The file a command is about, on disk as it is in the editor; undefined where there is none.
async function savedFile(given) {
  const active = vscode.window.activeTextEditor?.document;
  const uri = typeof given === "string" ? vscode.Uri.parse(given) : given ?? active?.uri;
  if (uri?.scheme !== "file") {
    return undefined;
  }
  const same = (document) => document.uri.toString() === uri.toString();
  const open = vscode.workspace.textDocuments.find(same);
  return open?.isDirty && !(await open.save()) ? undefined : uri;
}

async function runTests(uri) {
  const scope = vscode.workspace.getWorkspaceFolder(uri) ?? vscode.TaskScope.Workspace;
  const execution = new vscode.ProcessExecution(commandPath(uri), ["test", uri.fsPath], {
    cwd: path.dirname(uri.fsPath),
  });
  const task = new vscode.Task({ type: "process" }, scope, "mserve test", "mserve", execution, []);
  task.presentationOptions = { clear: true, showReuseMessage: false };
  await vscode.tasks.executeTask(task);
}

// The setting `mserve.path` with the folder that `uri` lies in.
function commandPath(uri) {
  const found = uri && vscode.workspace.getWorkspaceFolder(uri);
  const folder = found ?? vscode.workspace.workspaceFolders?.[0];
  const setting = vscode.workspace.getConfiguration("mserve", uri).get("path") || "mserve";
  return setting.replaceAll("${workspaceFolder}", folder?.uri.fsPath ?? ".");
}

function output(command, args, cwd) {
  return new Promise((resolve, reject) => {
    const options = { cwd, maxBuffer: MAX_PAGE_BYTES };
    execFile(command, args, options, (error, stdout, stderr) =>
      error ? reject(Object.assign(error, { stderr })) : resolve(stdout)
    );
  });
}

async function sayNotFound(command) {
  const settings = "Open Settings";
  const message = `Mserve: "${command}" cannot be run. Install mserve, or set its path.`;
  const chosen = await vscode.window.showWarningMessage(message, settings);
  if (chosen === settings) {
    await vscode.commands.executeCommand("workbench.action.openSettings", "mserve.path");
  }
}

// --- plans: one panel per file, drawn anew when the file is saved --------------------------------

class Plans {
  constructor() {
    this.panels = new Map(); // of URIs as text
  }

  // The page shows every route, so a lens above one of them opens the same page.
  async show(uri) {
    if (!this.panels.has(uri.toString())) {
      this.add(uri);
    }
    this.panels.get(uri.toString()).reveal(vscode.ViewColumn.Beside, true);
    await this.refresh(uri);
  }

  add(uri) {
    const title = `Plan: ${path.basename(uri.fsPath, ".mserve")}`;
    const place = { viewColumn: vscode.ViewColumn.Beside, preserveFocus: true };
    const panel = vscode.window.createWebviewPanel("mserve.plan", title, place, {
      enableScripts: false,
      localResourceRoots: [],
    });
    this.panels.set(uri.toString(), panel);
    panel.onDidDispose(() => this.panels.delete(uri.toString()));
  }

  async refresh(uri) {
    if (!this.panels.has(uri.toString())) {
      return;
    }
    const page = await planPage(uri);
    const panel = this.panels.get(uri.toString()); // it may have been closed meanwhile
    if (panel !== undefined && page !== undefined) {
      panel.webview.html = page;
    }
  }
}

async function planPage(uri) {
  const command = commandPath(uri);
  try {
    const args = ["plan", uri.fsPath, "--format", "html"];
    return await output(command, args, path.dirname(uri.fsPath));
  } catch (error) {
    if (typeof error.code !== "number") {
      await sayNotFound(command);
      return undefined;
    }
    return `<!doctype html><title>no plan</title><pre>${escaped(error.stderr)}</pre>`;
  }
}

function escaped(text) {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
}

// --- the language server -------------------------------------------------------------------------

class Server {
  constructor(extensionPath, onCommand) {
    this.extensionPath = extensionPath;
    this.onCommand = onCommand;
    this.client = undefined;
    this.lensCommands = [];
    this.turn = Promise.resolve(); // restarts follow each other
  }

  restart() {
    this.turn = this.turn.then(() => this.stopAndStart());
    return this.turn;
  }

  async stopAndStart() {
    try {
      await this.stop();
      await this.start();
    } catch (error) {
      vscode.window.showErrorMessage(`Mserve: the language server did not start: ${error.message}`);
    }
  }

  async stop() {
    const client = this.client;
    this.client = undefined;
    this.lensCommands.splice(0).forEach((each) => each.dispose());
    await client?.dispose();
  }

  async start() {
    const library = vscode.workspace.isTrusted ? this.loadLibrary() : undefined;
    if (library === undefined) {
      return;
    }
    const command = commandPath(undefined);
    try {
      await output(command, ["--version"]);
    } catch {
      sayNotFound(command); // not awaited: the message may stand for long
      return;
    }
    const process = { command, args: ["lsp"] };
    const client = new library.LanguageClient("mserve", "mserve", process, this.options());
    await client.start();
    this.client = client;
    const provider = client.initializeResult?.capabilities.executeCommandProvider;
    this.registerLensCommands(provider?.commands);
  }

  options() {
    return {
      documentSelector: [
        { language: "mserve", scheme: "file" },
        { language: "mserve", scheme: "untitled" },
      ],
      middleware: {
        executeCommand: (command, args, next) =>
          [PLAN, TEST].includes(command) ? this.onCommand(command, args) : next(command, args),
      },
    };
  }

  // A command that the server claims has been registered by the library and comes here through the
  // middleware; registering it once more would be an error.
  registerLensCommands(claimed = []) {
    for (const command of [PLAN, TEST].filter((each) => !claimed.includes(each))) {
      const handler = (...args) => this.onCommand(command, args);
      this.lensCommands.push(vscode.commands.registerCommand(command, handler));
    }
  }

  // Undefined, and said so, where `npm install` was not run.
  loadLibrary() {
    try {
      return require("vscode-languageclient/node");
    } catch (error) {
      if (error.code !== "MODULE_NOT_FOUND") {
        throw error;
      }
      this.sayNotInstalled(); // not awaited: the message may stand for long
      return undefined;
    }
  }

  async sayNotInstalled() {
    const command = "npm install --omit=dev";
    const copy = "Copy Command";
    const message =
      "Mserve: diagnostics and completion need one library: " +
      `run "${command}" in ${this.extensionPath} and reload the window. All else works.`;
    if ((await vscode.window.showWarningMessage(message, copy)) === copy) {
      await vscode.env.clipboard.writeText(`cd "${this.extensionPath}" && ${command}`);
    }
  }
}

module.exports = { activate, deactivate };
